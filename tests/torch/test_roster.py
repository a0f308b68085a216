"""Who holds what of very many ranks, without any of them: the structure, and the schedule of what is sent."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

import clipwise
from clipwise.errors import ArgumentError
from clipwise.functional.slots import Slot
from clipwise.torch._cover import connected
from clipwise.torch._process_groups import Standing
from clipwise.torch._roster import Row, Table, merged
from tests.torch.loops.sharded import Collectives

RANKS, STAGES, EXPERTS = 1024, 4, 8
"""A pipeline of 4 stages; in each of them experts over 8 ranks, 32 times, and dense weights over all 256."""
OF_STAGE = RANKS // STAGES


def row(name, pattern=None, position=(), pieces=1, ranks=1):
    placements = "S(0)" if pieces > 1 else ""
    standing = Standing(name, pattern, position)
    return Row(standing, Slot(name, (64, 64), (0,)), torch.float32, placements, pieces, ranks, True)


def table(rank):
    stage, expert = rank // OF_STAGE, rank % EXPERTS
    return Table(
        (
            row("step"),
            row(f"layers.{stage}.dense", "layers.*", (stage,), pieces=OF_STAGE, ranks=OF_STAGE),
            row(f"layers.{stage}.norm", "layers.*", (stage,)),
            row("expert", "expert", (stage, expert)),
            *([row("embed", "")] if stage in (0, STAGES - 1) else []),
        ),
        ("expert", "layers.*", "embed"),
    )


def by_table():
    found = {}
    for rank in range(RANKS):
        found.setdefault(table(rank), []).append(rank)
    return [(ranks, table) for table, ranks in found.items()]


def test_every_part_counts_once_over_1024_ranks():
    entries = {rank: merged(by_table(), rank) for rank in (0, 700, RANKS - 1)}
    names = [entry.slot.name for entry in entries[0]]
    assert len(names) == len({*names}) == 1 + STAGES * 2 + STAGES * EXPERTS + 1
    counted = dict.fromkeys(names, 0.0)
    for ranks, own in by_table():
        here = [entry for entry in merged(by_table(), ranks[0]) if entry.name]
        assert len(here) == len(own.rows)
        for entry in here:
            counted[entry.slot.name] += entry.share * len(ranks)
    for entry in entries[0]:
        assert counted[entry.slot.name] == pytest.approx(entry.pieces)  # each piece once
    for rank, own in entries.items():
        assert [entry.slot for entry in own] == [entry.slot for entry in entries[0]]
        assert {entry.name for entry in own if entry.name} == {row.slot.name for row in table(rank).rows}
    assert [entry.slot.name for entry in entries[0] if entry.compared] == ["step"]


def test_a_rank_that_is_not_like_the_others_is_named():
    own = table(5)
    other = Table((*own.rows[:3], own.rows[3]._replace(dtype=torch.float64)), own.patterns)
    tables = [([rank for rank in ranks if rank != 69], one) for ranks, one in by_table()]
    with pytest.raises(ArgumentError, match=r"rank 5 has 'expert' .*float32, rank 69 has 'expert' .*float64"):
        merged([*tables, ([69], other)], 0)


def test_ranks_that_share_a_group_are_connected():
    pairs = [[(rank // 2 * 2, rank // 2 * 2 + 1)] for rank in range(8)]
    assert connected(pairs) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    pairs[1].append((1, 2))
    pairs[2].append((1, 2))
    assert connected(pairs) == [[0, 1, 2, 3], [4, 5], [6, 7]]
    pairs[7].append(None)
    assert connected(pairs) == [list(range(8))]


@pytest.fixture
def many_ranks():
    fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    dist.init_process_group("fake", store=fake.FakeStore(), rank=700, world_size=RANKS)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("many_ranks")
def test_one_collective_among_1024_ranks():
    """What is sent nowhere adds nothing: a norm is the square root of this rank's share."""
    mesh = init_device_mesh("cpu", (STAGES, 16, 16), mesh_dim_names=("stage", "data", "shard"))
    held = torch.full((4, 8), 0.5)
    names = [f"{place}.{kind}" for place in range(100) for kind in ("split", "same", "plain")]
    parameters = []
    for name in names:
        local, placements = held.clone(), [Replicate(), Shard(0) if "split" in name else Replicate()]
        value = DTensor.from_local(local, mesh["data", "shard"], placements, run_check=False)
        value = torch.nn.Parameter(local if "plain" in name else value)
        value.grad = value.detach().clone()
        parameters.append((name, value))
    groups = {"*": mesh["stage"].get_group()}
    clipper = clipwise.torch.Clipper(parameters, clipwise.adagc(), process_groups=groups)
    sent, reports = [], []
    for _ in range(3):
        with Collectives() as collectives:
            reports.append(clipper.clip_())
        sent.append(collectives.count)
    assert sent == [2, 1, 1]
    shares = {"split": 16 / RANKS, "same": 1 / RANKS, "plain": 1 / RANKS}
    assert reports[0].names == tuple(names)
    expected = [float(held.norm()) * shares[name.split(".")[1]] ** 0.5 for name in names]
    torch.testing.assert_close(reports[0].tensor_norms, torch.tensor(expected, dtype=torch.float64))
