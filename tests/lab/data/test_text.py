"""Text: what is read, how it is split, and how it is fed to a model."""

import gzip
import itertools
from pathlib import Path

import pytest
import torch

from clipwise.errors import DataError
from clipwise.lab.config.lab_config import LabConfig, parse_config
from clipwise.lab.data.text import PLAYS, UNKNOWN, chatterbot, make_corpus, read_text, shakespeare
from clipwise.lab.tasks.language import LanguageModeling


def language(kind: str, text: str, batch: int, steps: int) -> LanguageModeling:
    config: LabConfig = parse_config(
        {
            "model_type": kind,
            "task": "Language_Modeling",
            "training_parameters": {"batch_size": batch, "sequence_length": steps},
        }
    )
    return LanguageModeling(config, make_corpus(text, "t", sequence_length=steps, batch_size=batch))


def test_the_vocabulary_is_of_the_training_part_alone() -> None:
    corpus = make_corpus("ab" * 45 + "az" * 5, "t", sequence_length=4, batch_size=2)
    assert corpus.characters[1:] == ("a", "b")
    assert "".join(corpus.characters[i] for i in corpus.train) == "ab" * 45
    assert corpus.held_out.tolist() == [1, UNKNOWN] * 5


def test_a_text_of_ten_characters_says_what_is_needed() -> None:
    with pytest.raises(DataError) as caught:
        make_corpus("0123456789", "my.txt", sequence_length=64, batch_size=32)
    needed = int(str(caught.value).split("at least ")[1].split(":")[0])
    assert str(caught.value).startswith("my.txt: 10 characters are too few; with batch_size 32")
    make_corpus("x" * needed, "my.txt", sequence_length=64, batch_size=32)  # and that is enough


@pytest.mark.parametrize(("content", "message"), [
    (b"", "the file is empty"),
    (b"\n \n", "the file is empty"),
    (b"text\0more", "a binary file"),
    ("é".encode("latin-1"), "not UTF-8 text"),
])  # fmt: skip
def test_a_file_that_is_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_text(tmp_path / "t.txt")


def test_a_file_is_read_with_its_own_line_ends_and_up_to_a_limit(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes("\ufeffone\r\ntwo\r\n".encode())
    assert read_text(tmp_path / "t.txt", 5) == "one\nt"
    with pytest.raises(DataError, match="cannot be read"):
        read_text(tmp_path / "none.txt")


TEXT = "".join(chr(ord("a") + i * i % 26) for i in range(1000))


def test_streams_go_on_where_they_stopped_and_cover_the_text() -> None:
    task = language("GRU", TEXT, batch=4, steps=10)
    width = 900 // 4
    epoch = list(itertools.islice(task.batches(0), task.steps_per_epoch))
    assert [batch.continues for batch in epoch] == [False] + [True] * (len(epoch) - 1)
    joined = torch.cat([batch.x for batch in epoch], dim=1)
    for row in range(4):
        stream = task.corpus.train[row * width : (row + 1) * width]
        offset = stream.unfold(0, joined.shape[1], 1).eq(joined[row]).all(dim=1).nonzero()
        assert len(offset) >= 1  # one piece of the text, without a gap
    assert joined.shape[1] == task.steps_per_epoch * 10
    assert task.steps_per_epoch == (width - 1) // 10
    for batch in epoch:
        assert torch.equal(batch.x[:, 1:], batch.y[:, :-1])  # what comes next is the target


def test_the_last_target_of_a_chunk_is_the_first_input_of_the_next() -> None:
    first, second = itertools.islice(language("LSTM", TEXT, 4, 10).batches(1), 2)
    assert torch.equal(first.y[:, -1], second.x[:, 0])


@pytest.mark.parametrize("kind", ["LSTM", "Transformer"])
def test_the_order_of_the_data_is_the_seeds_alone(kind: str) -> None:
    task = language(kind, TEXT, 4, 10)
    epochs = 3 * task.steps_per_epoch
    once = [b.x for b in itertools.islice(task.batches(7), epochs)]
    again = [b.x for b in itertools.islice(task.batches(7), epochs)]
    other = [b.x for b in itertools.islice(task.batches(8), epochs)]
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(once, other, strict=True))


def test_a_transformer_reads_windows_of_the_training_part() -> None:
    task = language("Transformer", TEXT, 4, 10)
    batch = next(task.batches(0))
    assert not batch.continues
    windows = task.corpus.train.unfold(0, 11, 1)
    for x, y in zip(batch.x, batch.y, strict=True):
        assert windows.eq(torch.cat([x, y[-1:]])).all(dim=1).any()


def test_bits_of_a_model_that_knows_nothing_are_those_of_a_guess() -> None:
    task = language("GRU", TEXT, 4, 10)
    symbols = task.spec.vocabulary

    class Guess(torch.nn.Module):
        def forward(self, x: torch.Tensor, state: None, **rest: None) -> tuple[torch.Tensor, None]:
            return torch.zeros(*x.shape, symbols), None

    figures = task.evaluate(Guess(), torch.device("cpu"), torch.enable_grad)
    # float32 sums of a few hundred equal terms: well within 1e-5.
    assert figures["bits"] == pytest.approx(torch.tensor(float(symbols)).log2().item(), rel=1e-5)
    assert figures["perplexity"] == pytest.approx(symbols, rel=1e-5)


def test_shakespeare_is_whole_plays_in_modern_spelling() -> None:
    text = shakespeare()
    assert len(text) == 1_100_000
    assert text.startswith("HAMLET, PRINCE OF DENMARK")
    assert "Gutenberg" not in text
    assert text.count("\n\n\nMACBETH\n") == 1
    assert shakespeare(1000) == text[:1000]
    longer = shakespeare(10_000_000)
    assert len(longer) > 4_000_000
    assert len(PLAYS) == len(set(PLAYS)) == 37


def test_no_conversation_is_in_both_parts() -> None:
    conversations = chatterbot().split("\n\n")
    assert len(conversations) > 850
    assert len(set(conversations)) == len(conversations)
    assert any("My internet is not working." in conversation for conversation in conversations)


def test_a_packed_text_and_a_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "t.txt.gz"
    path.write_bytes(gzip.compress(b"to be or not"))
    assert read_text(path) == "to be or not"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="not a gzip file, or a damaged one"):
        read_text(path)
