"""The benchmarks measure what they say: real shapes, peers that do the same, pairs, and a whole run.

Times are not asserted anywhere.
"""

import copy
import json

import numpy as np
import pytest
import torch
from benchmarks import __main__ as program
from benchmarks import cases, floors, goals, machine, memory, methods, oracle, peers, table, timing
from benchmarks.measure import Effort, measure
from torch import nn

import clipwise
from tests.depth import thorough

CPU = torch.device("cpu")
TINY = cases.Case("lstm", "tiny", ((8, 5), (7,), (3, 2, 2, 2), (1,)))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def problem() -> cases.Problem:
    return cases.make(TINY, torch.float32, CPU)


@pytest.mark.parametrize(
    ("name", "tensors", "entries"),
    [
        ("gpt2", 148, 124_439_808),
        ("resnet50", 161, 25_557_032),
        ("small", 400, 832_000),
        ("lstm", 10, 946_272),
    ],
)
def test_cases_have_the_real_shapes(name, tensors, entries):
    case = cases.CASES[name]
    assert len(case.shapes) == tensors
    assert case.entries == entries


def test_the_lstm_is_what_torch_makes():
    modules = nn.ModuleList([nn.LSTM(128, 256, 2), nn.Linear(256, 96)])
    assert [tuple(p.shape) for p in modules.parameters()] == list(cases.CASES["lstm"].shapes)


@pytest.mark.parametrize("clipped", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", methods.METHODS)
def test_each_call_does_what_its_row_says(method, dtype, clipped):
    problem = cases.make(TINY, dtype, CPU)
    contest = methods.METHODS[method](problem, clipped)
    for contender in reversed(contest.contenders):
        problem.restore()
        contender.check(contender.call())
    if contest.close is not None:
        contest.close()


@pytest.mark.parametrize("method", ["value", "norm", "global", "clipper", "agc", "percentile", "attach"])
def test_a_call_that_does_nothing_is_found_out(problem, method):
    contest = methods.METHODS[method](problem, True)
    if method == "attach":
        with torch.no_grad():  # a step that saw gradients half as large
            torch._foreach_mul_(problem.gradients, 0.1)
        contest.contenders[-1].call()
    with pytest.raises(oracle.CheckError):
        contest.contenders[-1].check(None)
    if contest.close is not None:
        contest.close()


def test_a_call_that_clips_what_it_should_not_is_found_out(problem):
    contest = methods.METHODS["global"](problem, False)
    problem.gradients[2].mul_(1.0 + 1e-6)
    with pytest.raises(oracle.CheckError, match="tensor 2 was changed"):
        contest.contenders[-1].check(torch.tensor(problem.norm))


def test_a_wrong_norm_is_found_out(problem):
    contest = methods.METHODS["global"](problem, False)
    with pytest.raises(oracle.CheckError, match="the norm"):
        contest.contenders[-1].check(torch.tensor(problem.norm * (1 + 1e-5), dtype=torch.float64))


def test_oracle_norms_are_float64_norms():
    tensor = torch.randn(33, 4, 5, generator=torch.Generator().manual_seed(3))
    rows = tensor.double().reshape(33, -1)
    assert oracle.tensor_norms([tensor]) == pytest.approx(rows.norm().item(), rel=1e-14)
    np.testing.assert_allclose(oracle.unit_norms(tensor), rows.norm(dim=1).numpy(), rtol=1e-14)


def clips_as(clip: clipwise.Clip, peer, problem: cases.Problem) -> None:
    """The peer and clipwise leave the same gradients; the peer adds up in float32."""
    copied = copy.deepcopy(problem.parameters)
    for old, new in zip(problem.parameters, copied, strict=True):
        new.grad = old.grad.clone()
    peer(problem.parameters)
    clipwise.torch.clip_(copied, clip)
    for old, new in zip(problem.parameters, copied, strict=True):
        torch.testing.assert_close(old.grad, new.grad, rtol=1e-3, atol=0.0)


def test_peers_clip_as_clipwise_does(problem):
    # Norms of single units are as small as torch's 1e-6 allows; 1e-3 relative is what that leaves.
    median = float(np.median(problem.norms))
    clips_as(clipwise.clip_by_norm(median), lambda p: peers.clip_by_norm_(p, median), problem)
    problem.restore()
    clips_as(clipwise.adaptive_grad_clip(0.05), lambda p: peers.adaptive_clip_(p, 0.05), problem)
    assert any(not torch.equal(a, b) for a, b in zip(problem.gradients, problem.pristine, strict=True))


def test_autoclip_is_the_percentile_of_its_list(problem):
    peer, clipper = (
        peers.AutoClip(problem.parameters, 30.0),
        clipwise.torch.Clipper(problem.parameters, clipwise.autoclip(30)),
    )
    for factor in (1.0, 3.0, 0.5, 2.0):
        found = []
        for call in (peer.clip_, clipper.clip_):
            problem.restore()
            torch._foreach_mul_(problem.gradients, factor)
            call()
            found.append([g.clone() for g in problem.gradients])
        for theirs, mine in zip(*found, strict=True):
            torch.testing.assert_close(theirs, mine, rtol=1e-3, atol=0.0)
    # A tenth of the way from the lowest but one: 30 % of the three gaps between four norms.
    lowest = sorted(np.array([1.0, 3.0, 0.5, 2.0]) * problem.norm)
    assert clipper.report is not None
    assert float(clipper.report.threshold) == pytest.approx(
        lowest[0] + 0.9 * (lowest[1] - lowest[0]), rel=1e-6
    )


def test_pairs_are_compared_one_by_one():
    # The machine is ten times slower in the second half; ours is always twice as fast.
    peer = np.array([2.0, 2.0, 20.0, 20.0, 20.0])
    found = timing.paired(peer, peer / 2)
    assert (found.ratio, found.low, found.high, found.pairs) == (2.0, 2.0, 2.0, 5)
    assert (found.peer, found.ours) == (20.0, 10.0)
    # A single outlier moves the mean of the ratios to 21, the median not at all.
    assert timing.paired(np.array([1.0, 1.0, 1.0, 1.0, 101.0]), np.ones(5)).ratio == 1.0


def test_calls_take_turns_and_what_comes_before_is_not_timed():
    log: list[str] = []

    def clock(call) -> float:
        start = len(log)
        call()
        return float(len(log) - start)

    turns = [
        timing.Turn(lambda: log.append("a"), lambda: log.append("restore")),
        timing.Turn(lambda: log.extend("bb")),
    ]
    seconds = timing.interleaved(turns, clock, seconds=0.0, least=3, most=9, warm=1)
    assert log == ["restore", "a", "b", "b"] * 4
    assert seconds.tolist() == [[1.0, 2.0]] * 3


def test_the_floor_is_bytes_over_bandwidth():
    assert floors.Bandwidth(read=10.0, update=4.0).seconds(reads=100, updates=8) == 10.0 + 4.0
    yardstick = floors.Yardstick(CPU, nbytes=4000)
    # 4,000 bytes read in 2 s; read and written in 4 s.
    assert yardstick.rates(np.array([[2.0, 4.0]])).tolist() == [[2000.0, 2000.0]]


def test_extra_memory_is_seen_and_what_was_there_is_not():
    there = torch.zeros(4 << 20)
    there.add_(1)
    peak = memory.extra_peak(lambda: there + 1, CPU)
    if peak is None:
        pytest.skip("this system cannot reset its peak")
    assert peak == pytest.approx(16 << 20, abs=1 << 20)
    assert memory.extra_peak(lambda: there.add_(1), CPU) < 1 << 20


def test_goals():
    goal = goals.goal_of("gpt2", "global", "fp32", False)
    assert (goal.ratio, goal.over_floor) == (2.7, 1.2)
    assert goal.missed(2.8, 1.1, 1000, 1e-8) == []
    assert goal.missed(2.6, 1.3, 1 << 20, 2e-6) == ["ratio", "floor", "memory", "norm"]
    assert goal.missed(2.8, None, None, float("nan")) == ["norm"]
    assert goals.goal_of("small", "norm", "fp32", True).ratio == 6.0
    assert goals.goal_of("small", "norm", "bf16", True).ratio == 1.6
    assert goals.goal_of("resnet50", "value", "fp32", True).ratio == 1.0
    assert goals.goal_of("lstm", "agc", "fp32", False).ratio == 6.0
    assert goals.goal_of("lstm", "attach", "fp32", False).ratio is None


def test_the_table_says_what_was_measured(problem):
    yardstick = floors.Yardstick(CPU, nbytes=4000)
    cached = floors.Bandwidth(1e9, 1e9)
    effort = Effort(seconds=0.0, least=2, warm=1, repeats=1)
    lines = [
        line
        for method in ("global", "attach")
        for line in measure(problem, method, True, effort, yardstick, cached)
    ]
    assert [line.label for line in lines] == [
        "global norm",
        "attach, overhead",
        "attach, clip + step",
    ]
    assert lines[0].floor == pytest.approx((problem.nbytes + 2 * problem.nbytes) / 1e9)
    text = table.markdown(lines, {"threads": "1"})
    assert "- threads: 1" in text
    for line in lines:
        assert "| " + " | ".join(table.cells(line)) + " |" in text
    assert table.cells(lines[1])[4].endswith("%")
    for old, new in zip(problem.pristine, problem.gradients, strict=True):
        assert torch.equal(old, new)


@thorough
def test_a_quick_run_from_end_to_end(tmp_path, capsys):
    files = tmp_path / "table.md", tmp_path / "table.json"
    chosen = [
        "--quick",
        "--case",
        "lstm",
        "--threads",
        "1",
        "--markdown",
        str(files[0]),
        "--json",
        str(files[1]),
    ]
    assert program.main(chosen) == 0
    printed = capsys.readouterr().out
    found = json.loads(files[1].read_text())
    # 7 methods in 2 dtypes, clipped and not; attach has two lines.
    assert len(found["lines"]) == 2 * 2 * 8
    assert {line["clipped"] for line in found["lines"]} == {True, False}
    assert found["facts"]["threads"] == "1"
    assert all(line["error"] <= 1e-6 for line in found["lines"] if line["error"] is not None)
    assert "LSTM, 2 layers, bf16" in printed
    assert files[0].read_text().count("| attach, overhead |") == 4
    for wrong in (["--case", "gpt5"], ["--threads", "0"]):
        with pytest.raises(SystemExit):
            program.main(wrong)


def test_busy_cores_are_busy_until_the_end():
    with machine.busy_cores(2) as running:
        assert [process.poll() for process in running] == [None, None]
    assert all(process.returncode for process in running)
    assert str(goals.goal_of("lstm", "norm", "fp32", True, busy=True)) == "≥1x"


def test_single_examples_are_clipped_alike_by_all_routes(monkeypatch):
    """`measured` itself compares the gradients; a route that does something else ends it."""
    from benchmarks import per_example

    monkeypatch.setattr(per_example, "SECONDS", 0.0)
    monkeypatch.setattr(per_example, "NORM", 0.5)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10))
    case = per_example.Case("tiny", lambda: net, lambda n: torch.randn(n, 6), (4,))
    rows = per_example.measured(case, 4, 1)
    assert [row.route for row in rows] == list(per_example.ROUTES)
    text = per_example.markdown(rows, {"cores": "2"})
    assert text.count("| tiny | 4 |") == 5
    monkeypatch.setattr(per_example.clipwise, "clip_by_global_norm", lambda norm: clipwise.clip_by_norm(norm))
    with pytest.raises(AssertionError):
        per_example.measured(case, 4, 1)
