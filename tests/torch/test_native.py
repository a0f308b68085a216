"""The C engine against float64 numpy and torch's rounding, and the reference engine where that takes over."""

import math
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clipwise.torch.engines import native, reference

if not native.available():
    pytest.skip("the extension module was not built", allow_module_level=True)

from clipwise.torch.engines import _native

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
HALF = [torch.float16, torch.bfloat16]
ORDERS = [1.0, 2.0, math.inf]
SHAPES = [(), (0,), (0, 3), (1,), (7,), (8,), (63,), (64,), (65,), (1000,), (5, 7, 3)]
SHAPES += [(16384,), (16385,), (100003,)]  # one piece, and more
SIGNALLING = {  # a NaN whose bits any arithmetic changes, multiplying by 1 too
    torch.float32: 0x7F800001,
    torch.float64: 0x7FF0000000000001,
    torch.float16: 0x7C01,
    torch.bfloat16: 0x7F81,
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=_native.levels())
def level(request):
    _native.use(request.param)
    yield request.param
    _native.use(_native.levels()[-1])


@pytest.fixture(params=["exchange", "attributes"])
def way(request):
    """How a tensor's address is found."""
    if not native.bind(request.param == "exchange") and request.param == "exchange":
        pytest.skip("this torch has no exchange table")
    yield request.param
    native.bind()


def entries(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def layouts(dtype: torch.dtype) -> list[Tensor]:
    """The same kinds of tensors as `SHAPES`, and those that lie in memory in other ways."""
    plain = [entries(*shape, dtype=dtype, seed=i) for i, shape in enumerate(SHAPES)]
    unaligned = [entries(4100, dtype=dtype, seed=i)[i : i + 4000 + i] for i in range(1, 6)]
    images = entries(6, 3, 5, 4, dtype=dtype).to(memory_format=torch.channels_last)
    swapped = [entries(9, 40, dtype=dtype).t(), entries(3, 4, 5, dtype=dtype).permute(1, 2, 0)]
    return [*plain, *unaligned, images, *swapped]


def numpy_norm(values: Tensor, p: float) -> float:
    wide = values.detach().to_dense().to(torch.float64).numpy().ravel()
    return float(np.linalg.norm(wide, p)) if wide.size else 0.0


def bits(values: Tensor) -> Tensor:
    """What is in memory, NaN and the sign of zero included."""
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    return values.detach().view(width)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norms(dtype, p, level, way):
    tensors = layouts(dtype)
    batch = native.Batch(tensors)
    assert batch.odd == []
    assert batch.entries == sum(t.numel() for t in tensors)
    # Sums of 1e5 terms in float64.
    np.testing.assert_allclose(batch.norms(p), [numpy_norm(t, p) for t in tensors], rtol=1e-13)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unit_norms(dtype, p, level, way):
    rows = [(3, 20000), (2000, 1), (300, 100)]  # longer than a piece, single entries, several pieces of rows
    tensors = [*layouts(dtype), *[entries(*shape, dtype=dtype) for shape in rows]]
    batch = native.Batch(tensors)
    assert len(batch.table.odd_units) == 2  # those transposed
    assert batch.unit_counts == [reference.unit_count(t) for t in tensors]
    expected = []
    for t in tensors:
        rows = t.reshape(t.shape[0], -1) if t.ndim > 1 and t.numel() else t.reshape(1, -1)
        expected += [numpy_norm(row, p) for row in rows]
    np.testing.assert_allclose(batch.unit_norms(p), expected, rtol=1e-13)


@pytest.mark.parametrize("p", [0.5, 3.0])
def test_other_orders_go_to_the_reference_engine(p):
    tensors = [entries(5, 7), entries(100, dtype=torch.bfloat16)]
    batch = native.Batch(tensors)
    np.testing.assert_allclose(batch.norms(p), [numpy_norm(t, p) for t in tensors], rtol=1e-12)
    units = [*tensors[0], tensors[1]]
    np.testing.assert_allclose(batch.unit_norms(p), [numpy_norm(unit, p) for unit in units], rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("coefficient", [0.7, 1e-3, 0.0, 1.0 / 3.0, 1e-42])
def test_scale_rounds_once(dtype, coefficient, level, way):
    tensors = layouts(dtype)
    expected = [exactly(t, coefficient) for t in tensors]
    native.Batch(tensors).scale_(np.float64(coefficient))
    for found, wanted in zip(tensors, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def exactly(values: Tensor, coefficient: float) -> Tensor:
    """The product in float64, rounded once; of bfloat16 in float32, as torch's, unless that loses digits.

    torch rounds float16 by way of float32, so it goes to numpy.
    """
    if values.dtype == torch.bfloat16 and not coefficient < 2.0**-100:
        return (values.float() * np.float32(coefficient).item()).to(torch.bfloat16)
    product = values.to(torch.float64) * coefficient
    if values.dtype == torch.float16:
        return torch.from_numpy(np.asarray(product.numpy().astype(np.float16))).reshape(values.shape)
    return nearest_bfloat16(product) if values.dtype == torch.bfloat16 else product.to(values.dtype)


def nearest_bfloat16(wide: Tensor) -> Tensor:
    """Of the bfloat16 beside torch's answer the nearest; it is torch's but where that rounded twice."""
    guess = wide.to(torch.bfloat16)
    best = guess.clone()
    for step in (-1, 1):
        beside = bits(guess.contiguous()).add(step).view(torch.bfloat16).reshape(guess.shape)
        nearer = (beside.double() - wide).abs() < (best.double() - wide).abs()
        best = torch.where(nearer, beside, best)
    return best


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_tensor_its_own_coefficient_and_1_touches_nothing(dtype, level):
    tensors = [entries(100, dtype=dtype, seed=i) for i in range(3)]
    for t in tensors:
        t[:4] = torch.tensor([math.nan, -0.0, math.inf, 0.0], dtype=dtype)
    for t in tensors:
        bits(t)[10] = SIGNALLING[dtype]
    before = [bits(t).clone() for t in tensors]
    native.Batch(tensors).scale_(np.array([1.0, 0.5, 1.0]))
    native.Batch([tensors[0].view(50, 2)]).scale_units_(np.array([0.5, *[1.0] * 49]))
    for i, first in ((0, 2), (2, 0)):
        assert torch.equal(bits(tensors[i])[first:], before[i][first:])
    halved = before[1].view(dtype) * 0.5
    torch.testing.assert_close(tensors[1], halved, rtol=0, atol=0, equal_nan=True)
    numbers = ~halved.isnan()  # -0.0 among them
    assert torch.equal(tensors[1].signbit()[numbers], halved.signbit()[numbers])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scale_units(dtype, level, way):
    tensors = layouts(dtype)
    batch = native.Batch(tensors)
    each = np.random.default_rng(0).uniform(0.1, 0.9, sum(batch.unit_counts))
    each[::3] = 1.0
    expected, at = [], 0
    for t, count in zip(tensors, batch.unit_counts, strict=True):
        own = torch.from_numpy(each[at : at + count])
        own = own.reshape(-1, *[1] * (t.ndim - 1)) if t.ndim > 1 and t.numel() else own[0]
        expected.append((t.double() * own).to(dtype))
        at += count
    batch.scale_units_(each)
    for i, (found, wanted) in enumerate(zip(tensors, expected, strict=True)):
        # The expected halves are rounded twice, and the reference engine rounds coefficients: a step off.
        loose = dtype in HALF or i in batch.table.odd_units
        torch.testing.assert_close(found, wanted, rtol=torch.finfo(dtype).eps if loose else 0, atol=0)


BOUNDS = [(-0.5, 0.5), (-math.inf, 0.1), (0.2, math.inf), (-1e300, 1e300), (0.0, 0.0), (3.0, 2.0)]


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_clamp(dtype, bounds, level, way):
    low, high = bounds
    tensors = layouts(dtype)
    before = [t.clone() for t in tensors]
    expected = [t.clone() for t in tensors]
    beyond = [reference.clamp_(t, low, high).item() for t in expected]
    foreseen = [engine.Batch(tensors).clamped(low, high) for engine in (native, reference)]
    for found, wanted in zip(tensors, before, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    done = native.Batch(tensors).clamp_(low, high)
    for found, wanted in zip(tensors, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    for count, norm, norm_after in (done, *foreseen):
        assert count.tolist() == beyond
        np.testing.assert_allclose(norm, [numpy_norm(t, 2.0) for t in before], rtol=1e-12)
        np.testing.assert_allclose(norm_after, [numpy_norm(t, 2.0) for t in expected], rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_clamp_keeps_nan_and_writes_only_what_is_beyond(dtype, level):
    values = entries(1000, dtype=dtype)
    values[[10, 999]] = math.nan
    values[300], values[301], values[5] = math.inf, -math.inf, -0.0
    before = values.clone()
    count, _, after = native.Batch([values]).clamp_(-1.0, 1.0)
    assert count[0] == int((before.abs() > 1).sum())
    assert math.isnan(after[0])
    inside = ~(before.abs() > 1)
    assert torch.equal(bits(values)[inside], bits(before)[inside])
    assert values[300] == 1
    assert values[301] == -1


@pytest.mark.parametrize("bounds", [*BOUNDS[:-1], (-0.0, 1.0)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_clamp_without_a_report(dtype, bounds, level):
    """The same to the bit; all that is told is whether anything was beyond."""
    special = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 0.0], dtype=dtype)
    for length in (5, 255, 256, 257, 1000, 20_000):
        values = entries(length, dtype=dtype)
        values[:5] = special
        values[-1] = 0.25
        quiet, expected = values.clone(), values.clone()
        beyond = native.Batch([expected]).clamp_(*bounds)[0]
        told, before, after = native.Batch([quiet]).clamp_(*bounds, report=False)
        assert torch.equal(bits(quiet), bits(expected))
        assert (told[0] > 0) == (beyond[0] > 0)
        assert before is None
        assert after is None


def test_clamp_of_float64_whose_squares_leave_the_range(level):
    tensors = [torch.full((100,), size, dtype=torch.float64) for size in (1e200, 1e-200)]
    count, before, after = native.Batch(tensors).clamp_(-1e199, 1e199)
    assert count.tolist() == [100, 0]
    np.testing.assert_allclose(before, [1e201, 1e-199], rtol=1e-14)
    np.testing.assert_allclose(after, [1e200, 1e-199], rtol=1e-14)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_every_half_is_read_and_rounded_as_torch_does(dtype, level):
    every = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)
    sizes = native.Batch([every[i : i + 1] for i in range(0, 65536, 7)]).norms(2.0)
    np.testing.assert_array_equal(sizes, every[::7].double().abs().numpy())
    # Read by vectors: the sum over a block holds one entry of interest.
    blocks = torch.zeros(65536 // 16, 16, dtype=dtype)
    blocks[:, 11] = every[5::16]
    np.testing.assert_array_equal(native.Batch([blocks]).unit_norms(1.0), every[5::16].double().abs().numpy())
    for coefficient in (0.5, 0.75, 1.25, 2.0**-9):  # products of so few digits are exact in float32
        found, wanted = every.clone(), (every.float() * coefficient).to(dtype)
        native.Batch([found]).scale_(np.float64(coefficient))
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(found.isnan(), every.isnan())


@pytest.mark.parametrize("length", [1, 64])
def test_float16_is_not_rounded_by_way_of_float32(length, level):
    dtype = torch.float16
    step = torch.finfo(dtype).eps
    # So near the middle of two halves that float32 takes them for the middle, which goes to the even one.
    for coefficient, wanted in ((1 + step / 2 + 2.0**-40, 1 + step), (1 + 1.5 * step - 2.0**-40, 1 + step)):
        values = torch.ones(length, dtype=dtype)
        native.Batch([values]).scale_(np.float64(coefficient))
        assert values.tolist() == [wanted] * length


@pytest.mark.parametrize("length", [3, 4096])
def test_large_and_tiny_entries_keep_their_norm(length, level):
    float32, float64 = [3e20, 3e38, 1e-30, 1.4e-45], [1e300, 1e-300, 5e-324, 1.7e308, 1e-140, 1e-158]
    for dtype, each in ((torch.float32, float32), (torch.float64, float64)):
        for size in each:
            values = torch.full((length,), size, dtype=dtype)
            batch = native.Batch([values, values.reshape(1, -1)])
            with np.errstate(over="ignore"):
                expected = np.float64(values[0].item()) * np.sqrt(np.float64(length))
            # A subnormal norm has few digits of its own: one unit of the last place.
            for found in (*batch.norms(2.0), *batch.unit_norms(2.0)):
                assert found == pytest.approx(expected, rel=1e-14, abs=5e-324)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("place", [0, 5, 64, 16383, 16384, 16399])
def test_nan_and_inf_come_through(dtype, p, place, level):
    values = entries(16400, dtype=dtype)
    values[place] = -math.inf
    assert native.Batch([values]).norms(p)[0] == math.inf
    values[(place + 100) % 16400] = math.nan
    assert math.isnan(native.Batch([values]).norms(p)[0])
    assert math.isnan(native.Batch([values.reshape(1, -1)]).unit_norms(p)[0])


def test_threads_change_no_bit(level):
    shapes = [(700, 900), (1,), (400_003,), (30, 1000), (50_000, 3)]
    tensors = [entries(*shape, seed=i) for i, shape in enumerate(shapes)]
    results = []
    for threads in (1, 2, 3):
        copies = [t.clone() for t in tensors]
        table = _native.Table(copies)
        norms, units, clamped = np.zeros(5), np.zeros(sum(table.unit_counts)), np.zeros((5, 3))
        table.norms(2.0, norms, threads)
        table.unit_norms(2.0, units, threads)
        table.clamp_(-2.0, 2.0, clamped, threads, True)
        table.scale_(np.array([0.3]), threads)
        table.scale_units_(1 / (1 + units), threads)
        results.append([norms, units, clamped, *[t.numpy() for t in copies]])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_several_threads_of_the_program_share_the_team():
    """One of them has it; the others, meanwhile, do their work themselves."""
    tables = [_native.Table([entries(1_100_003, seed=seed)]) for seed in range(3)]

    def measured(table, threads):
        found = np.zeros((6, 1))
        for out in found:
            table.norms(2.0, out, threads)
        return found

    expected = [measured(table, 1) for table in tables]
    with ThreadPoolExecutor(len(tables)) as pool:
        found = list(pool.map(measured, tables, (2, 3, 2)))
    np.testing.assert_array_equal(found, expected)


def odd_tensors() -> list[Tensor]:
    rows = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    sparse = torch.sparse_coo_tensor([[0, 2]], rows, (4, 2), check_invariants=True).coalesce()
    holder = entries(10, 10)

    class Own(Tensor):
        pass

    return [
        sparse,
        holder[:, ::2],
        holder[2:5, 1:4],
        entries(4, 3, seed=3)[:, :1].expand(4, 3),
        torch.complex(entries(4, 5), entries(4, 5, seed=1)),
        entries(6, seed=5).as_subclass(Own),
        entries(12)[::3],
    ]


def test_odd_tensors_are_left_to_the_reference_engine(way):
    kinds = odd_tensors()
    mixed = [entries(3, 3), *kinds[:3], entries(5, dtype=torch.bfloat16), *kinds[3:], entries(0)]
    batch = native.Batch(mixed)
    assert batch.odd == [1, 2, 3, 5, 6, 7, 8] == batch.table.odd_units
    checker = reference.Batch(mixed)
    assert batch.entries == checker.entries
    for p in (1.0, 2.0, math.inf, 3.0):
        np.testing.assert_allclose(batch.norms(p), checker.norms(p), rtol=1e-12)
        np.testing.assert_allclose(batch.unit_norms(p), checker.unit_norms(p), rtol=1e-12)


def writable() -> list[Tensor]:
    kinds = odd_tensors()
    plain = [entries(3, 3), entries(70, dtype=torch.bfloat16), entries(2, 3).t()]
    return [plain[0], kinds[0], kinds[1], plain[1], kinds[4], kinds[5], plain[2]]


@pytest.mark.parametrize("way_to_change", ["one", "each", "units", "clamp"])
def test_odd_tensors_are_changed_as_the_reference_engine_does(way_to_change):
    found, wanted = writable(), writable()
    batch, checker = native.Batch(found), reference.Batch(wanted)
    for b in (batch, checker):
        if way_to_change == "one":
            b.scale_(np.asarray(0.25))
        elif way_to_change == "each":
            b.scale_(np.array([0.5, 0.25, 1.0, 0.125, 0.5, 0.75, 0.5]))
        elif way_to_change == "units":
            b.scale_units_(0.5 ** np.arange(sum(batch.unit_counts)))
        else:
            counts, before, after = b.clamp_(-0.5, 0.5)
            if b is batch:
                own = counts.tolist(), before, after
    if way_to_change == "clamp":
        assert own[0] == counts.tolist()
        np.testing.assert_allclose(own[1], reference.Batch(writable()).norms(2.0), rtol=1e-12)
        np.testing.assert_allclose(own[2], checker.norms(2.0), rtol=1e-12)
    for a, b in zip(found, wanted, strict=True):
        a, b = (t.to_dense().as_subclass(Tensor) for t in (a, b))
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sparse_tensor_is_treated_as_if_it_were_dense(dtype):
    rows = [1, 3, 4]
    dense = torch.zeros(6, 50, dtype=dtype)
    dense[rows] = entries(3, 50, dtype=dtype)
    sparse = torch.sparse_coo_tensor([rows], dense[rows], (6, 50), check_invariants=True).coalesce()
    batches = [native.Batch([t, entries(4, dtype=dtype)]) for t in (sparse, dense)]
    for p in ORDERS:
        np.testing.assert_allclose(*[b.norms(p) for b in batches], rtol=1e-15)
        np.testing.assert_array_equal(*[b.unit_norms(p) for b in batches])
    for change in ("scale_", "scale_units_", "clamp_"):
        for batch in batches:
            if change == "clamp_":
                batch.clamp_(-0.5, 0.25)
            else:
                getattr(batch, change)(np.linspace(0.3, 0.9, 2 if change == "scale_" else 7))
        torch.testing.assert_close(sparse.to_dense(), dense, rtol=0, atol=0)


def test_what_has_no_memory_of_its_own_is_odd(way):
    freed = entries(4)
    freed.untyped_storage().resize_(0)
    kinds = [
        freed,
        torch._efficientzerotensor(3),
        torch.empty(3, device="meta"),
        torch.arange(3),
        torch.eye(3).to_sparse(),
    ]
    for _ in range(2):  # the second time, the layout is asked first
        assert _native.Table([*kinds, entries(2)]).odd == [0, 1, 2, 3, 4]


def test_a_negated_view_has_its_own_numbers(way):
    plain = entries(200)
    memory = -plain
    view = torch._neg_view(memory)
    batch = native.Batch([view])
    assert batch.norms(2.0)[0] == pytest.approx(numpy_norm(plain, 2.0), rel=1e-14)
    batch.clamp_(-math.inf, 0.5)
    torch.testing.assert_close(view, plain.clamp(max=0.5), rtol=0, atol=0)
    batch.clamp_(-0.25, 0.25)
    batch.scale_(np.asarray(0.5))
    torch.testing.assert_close(view, plain.clamp(-0.25, 0.25) * 0.5, rtol=0, atol=0)


def test_a_lazy_copy_is_separated_before_it_is_written():
    original = entries(50)
    before = original.clone()
    copy = torch._lazy_clone(original)
    native.Batch([copy]).scale_(np.asarray(0.5))
    assert torch.equal(original, before)
    assert torch.equal(copy, before * 0.5)


def test_autograd_learns_of_the_change():
    gradient, weight = entries(5), entries(5, seed=1).requires_grad_()
    product = (gradient * weight).sum()  # keeps the gradient for its backward pass
    native.Batch([gradient]).scale_(np.asarray(1.0))
    product.backward(retain_graph=True)
    native.Batch([gradient]).scale_(np.asarray(0.5))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("missing", [[], [0], [3], [0, 1, 4], [0, 1, 2, 3, 4]])
def test_gather(missing, way):
    parameters = [nn.Parameter(entries(3, 2, seed=i)) for i in range(5)]
    for i, p in enumerate(parameters):
        if i not in missing:
            p.grad = entries(3, 2, seed=i + 10)
    gradients, places, table = native.gather(parameters)
    expected = [i for i in range(5) if i not in missing]
    assert places == (expected if missing else None)
    assert all(g is parameters[i].grad for g, i in zip(gradients, expected, strict=True))
    if gradients:
        norms = native.Batch(gradients, table).norms(2.0)
        np.testing.assert_allclose(norms, [numpy_norm(parameters[i].grad, 2.0) for i in expected], rtol=1e-14)


def test_a_table_keeps_its_tensors():
    table = _native.Table([entries(100_000)])
    out = np.zeros(1)
    table.norms(2.0, out, 1)
    assert out[0] == pytest.approx(numpy_norm(entries(100_000), 2.0), rel=1e-13)


def test_bad_arguments_are_refused():
    table = _native.Table([entries(4)])
    with pytest.raises(ValueError, match=r"p must be 1, 2 or inf, got 3\.0"):
        table.norms(3.0, np.zeros(1), 1)
    with pytest.raises(ValueError, match="out must be 1 float64 numbers, got 16 bytes"):
        table.norms(2.0, np.zeros(2), 1)
    with pytest.raises(ValueError, match="format 'f'"):
        table.norms(2.0, np.zeros(2, dtype=np.float32), 1)
    with pytest.raises(ValueError, match="coefficients must be 1 float64"):
        table.scale_units_(np.zeros(0), 1)
    fixed = np.zeros(1)
    fixed.flags.writeable = False
    with pytest.raises((BufferError, ValueError)):
        table.norms(2.0, fixed, 1)
    with pytest.raises(ValueError, match="bounds must be numbers, got nan"):
        table.clamp_(math.nan, 1.0, np.zeros((1, 3)), 1, True)
    with pytest.raises(ValueError, match=r"level must be one of .*, got 'sse9'"):
        _native.use("sse9")
    with pytest.raises(TypeError):
        _native.Table(3)
    with pytest.raises(AttributeError):
        _native.gather([3])


def test_the_team_counts_denormal_numbers_as_the_caller_does():
    """torch's setting is one of the calling thread; who of the team takes which part must not be seen."""
    values, norm = torch.full((2_000_000,), 1e-39), np.zeros(1)
    table = _native.Table([values])
    table.norms(2.0, norm, 2)  # the team is there now
    assert norm[0] == pytest.approx(numpy_norm(values, 2.0), rel=1e-13)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot count denormal numbers as 0")
    try:
        found = []
        for _ in range(20):
            table.norms(2.0, norm, 2)
            found.append(norm[0])
    finally:
        torch.set_flush_denormal(False)
    assert found == [0.0] * 20
    table.norms(2.0, norm, 2)
    assert norm[0] == pytest.approx(numpy_norm(values, 2.0), rel=1e-13)


def test_the_team_is_not_used_in_a_forked_child():
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    values = entries(2_000_000)
    expected, out = np.zeros(1), np.zeros(1)
    _native.Table([values]).norms(2.0, expected, 2)
    child = os.fork()
    if not child:
        signal.alarm(60)  # a team of the parent's threads would never answer
        try:
            _native.Table([values]).norms(2.0, out, 2)
        finally:
            os._exit(0 if out[0] == expected[0] else 1)
    assert os.waitpid(child, 0)[1] == 0
