"""The Triton engine against float64 numpy: on a GPU where there is one, else in Triton's interpreter.

The interpreter is chosen when Triton is imported, so it runs these same tests in a process of its own.
"""

import importlib.util
import json
import math
import mmap
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch

from clipwise.torch.engines import _triton_check, _triton_tables, reference
from clipwise.torch.engines import triton as engine
from clipwise.torch.engines._triton_check import check
from tests.depth import each_value, thorough

INSTALLED = importlib.util.find_spec("triton") is not None
INTERPRETED = INSTALLED and os.environ.get("TRITON_INTERPRET") == "1"
GPU = INSTALLED and torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda", 0) if GPU else torch.device("cpu")

needs_triton = pytest.mark.skipif(not INSTALLED, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(
    not GPU,
    reason="Triton's interpreter runs this file" if INTERPRETED else "there is no CUDA device, or no Triton",
)
needs_kernels = pytest.mark.skipif(
    not (INTERPRETED or GPU),
    reason="runs within test_in_the_interpreter" if INSTALLED else "Triton is not installed",
)
outside = pytest.mark.skipif(INTERPRETED, reason="not in the interpreter's own process")

ORDERS = [1.0, 2.0, math.inf]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
BITS = {torch.float32: torch.int32, torch.float64: torch.int64}
CHUNK = _triton_tables._CHUNK
SHAPES = [(), (0,), (0, 3), (1,), (CHUNK - 1,), (CHUNK,), (CHUNK + 1,), (3, CHUNK + 5), (2, 3, 4, 5), (7, 1)]


def random(shape, dtype, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape) * 3
    return torch.tensor(values, dtype=torch.float64).to(dtype).to(DEVICE)


def numbers(tensor):
    return tensor.detach().double().cpu().numpy()


def bits(tensor):
    return tensor.detach().contiguous().view(BITS.get(tensor.dtype, torch.int16)).cpu()


def oracle(tensor, p):
    """The norm in float64, scaled so that nothing leaves the range."""
    magnitudes = np.abs(numbers(tensor)).ravel()
    if not magnitudes.size:
        return 0.0
    largest = magnitudes.max()
    if p == math.inf or not np.isfinite(largest) or largest == 0:
        return largest
    return largest * float(np.sum((magnitudes / largest) ** p)) ** (1 / p)


def unit_oracle(tensor, p):
    if tensor.ndim < 2 or not tensor.numel():
        return [oracle(tensor, p)]
    return [oracle(unit, p) for unit in tensor]


# --- in other processes ---------------------------------------------------------------------------


@needs_triton
@outside
def test_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore", __file__]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    passed = int(found.stdout.rsplit(" passed", 1)[0].split()[-1])
    assert passed > 60, found.stdout[-2000:]


@outside
def test_triton_is_imported_by_the_first_kernel_only():
    code = (
        "import sys, torch, clipwise.torch; from clipwise.torch.engines import triton as engine;"
        "engine.available(); engine.Batch([torch.ones(2)]);"
        "print([m for m in sys.modules if m.split('.')[0] == 'triton'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_available_says_whether_triton_is_there():
    assert engine.available() is INSTALLED


COMPILE = """
import json, re, sys, torch, triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from clipwise.torch.engines import triton as engine, _triton_tables as tables

launches = {}
TYPES = {int: "i32", torch.int64: "*i64", torch.float64: "*fp64"}
def record(kernel, grid, *arguments, **constants):
    names = [name for name in kernel.arg_names if name not in constants]
    kinds = [TYPES.get(getattr(a, "dtype", int)) for a in arguments]
    assert len(names) == len(kinds)
    key = kernel.fn.__name__ + " " + " ".join(f"{k}={v}" for k, v in constants.items())
    launches[key] = kernel, dict(zip(names, kinds)), constants
tables._launch = record

for dtype in tables.DTYPES:
    shapes = [(9000,), (5, 7), (5, 100), (5, 128), (5, 4000), (5, 1001), (3, 5000)]
    batch = engine.Batch([torch.zeros(shape, dtype=dtype) for shape in shapes])
    for p in engine._ORDERS:
        batch.norms(p)
        batch.unit_norms(p)
    batch.scale_(torch.zeros((), dtype=torch.float64))
    batch.scale_(torch.zeros(len(shapes), dtype=torch.float64))
    batch.scale_units_(torch.zeros(sum(batch.unit_counts), dtype=torch.float64))
    batch.clamp_(-1.0, 1.0)

found = {}
for key, (kernel, signature, constants) in launches.items():
    source = ASTSource(kernel, signature, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options={"num_warps": 8})
    loads = re.findall(r"ld\\.global[.\\w]*", made.asm["ptx"])
    found[key] = [len(made.asm["cubin"]), sorted(set(loads)), ".ftz" in made.asm["ptx"]]
print(json.dumps(found))
"""


@thorough
@needs_triton
@outside
@pytest.mark.parametrize("capability", [90])
def test_every_kernel_compiles_for_a_gpu_that_is_not_here(capability, tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-c", COMPILE, str(capability)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    found = json.loads(ran.stdout)
    names = {key.split()[0] for key in found}
    assert names == {"norms", "finish", "scale", "clamp", "unit_norms", "scale_units"}
    assert len(found) > 80
    for key, (size, loads, flushes) in found.items():
        assert size > 0, key
        assert not flushes, f"{key} takes subnormal numbers for 0"
        if key.split()[0] in ("norms", "scale", "clamp") or "ALIGNED=True" in key:
            assert {"ld.global.v4.b32", "ld.global.v2.b64"} & set(loads), f"{key} loads no 16 bytes at a time"


# --- norms ----------------------------------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize(("p", "dtype"), each_value(ORDERS, DTYPES), ids=str)
def test_norms(dtype, p):
    tensors = [random(shape, dtype, seed) for seed, shape in enumerate(SHAPES)]
    tensors += [
        random((CHUNK * 2 + 3,), dtype)[1:],
        random((3, 4, 5, 6), dtype).to(memory_format=torch.channels_last),
    ]
    norms = engine.Batch(tensors).norms(p)
    assert norms.dtype == torch.float64
    assert norms.device == DEVICE
    np.testing.assert_allclose(numbers(norms), [oracle(t, p) for t in tensors], rtol=1e-13)


@needs_kernels
@pytest.mark.parametrize("p", ORDERS)
def test_norms_of_mixed_dtypes_keep_their_places(p):
    tensors = [random((10 + i,), DTYPES[i % 4], i) for i in range(11)]
    np.testing.assert_allclose(
        numbers(engine.Batch(tensors).norms(p)), [oracle(t, p) for t in tensors], rtol=1e-13
    )


@needs_kernels
@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.float32, 3e20),
        (torch.float32, 1e-45),
        (torch.bfloat16, 3e38),
        (torch.bfloat16, 1e-40),
        (torch.float16, 65504.0),
        (torch.float16, 6e-8),
        (torch.float64, 1e200),
        (torch.float64, 1e-200),
        (torch.float64, 5e-324),
    ],
    ids=str,
)
@pytest.mark.parametrize("p", ORDERS)
def test_nothing_leaves_the_range(dtype, value, p):
    tensors = [torch.full(shape, value, dtype=dtype, device=DEVICE) for shape in ((), (4, 30), (CHUNK + 9,))]
    tensors[2][:CHUNK] = 0  # a chunk of zeros beside tiny or huge entries
    batch = engine.Batch(tensors)
    np.testing.assert_allclose(numbers(batch.norms(p)), [oracle(t, p) for t in tensors], rtol=1e-13)
    units = [norm for t in tensors for norm in unit_oracle(t, p)]
    np.testing.assert_allclose(numbers(batch.unit_norms(p)), units, rtol=1e-13)


@needs_kernels
@pytest.mark.parametrize(("p", "dtype"), each_value(ORDERS, DTYPES), ids=str)
def test_nan_and_inf_are_seen(dtype, p):
    def spoilt(*values):
        tensor = random((2, CHUNK), dtype).view(-1)
        for place, value in enumerate(values):
            tensor[CHUNK + 100 * place] = value
        return tensor

    whole = [spoilt(), spoilt(math.inf), spoilt(-math.inf), spoilt(math.nan), spoilt(math.nan, math.inf)]
    found = numbers(engine.Batch(whole).norms(p))
    np.testing.assert_allclose(found[0], oracle(whole[0], p), rtol=1e-13)
    np.testing.assert_array_equal(found[1:], [math.inf, math.inf, math.nan, math.nan])

    rows = random((4, 20), dtype)
    rows[1, 3], rows[2, 19], rows[3, 0], rows[3, 1] = math.inf, math.nan, math.inf, math.nan
    found = numbers(engine.Batch([rows]).unit_norms(p))
    np.testing.assert_allclose(found[0], oracle(rows[0], p), rtol=1e-13)
    np.testing.assert_array_equal(found[1:], [math.inf, math.nan, math.nan])


UNITS = [
    (6, 1),
    (300, 3),
    (5, 64),
    (5, 65),
    (33, 128),
    (3, 512),
    (3, 515),
    (5, 1024),
    (2, 4096),
    (3, 5000),
    (40, 2, 3),
]


@needs_kernels
@pytest.mark.parametrize(("p", "dtype"), each_value(ORDERS, DTYPES), ids=str)
def test_unit_norms(dtype, p):
    tensors = [random(shape, dtype, seed) for seed, shape in enumerate([*UNITS, (), (0, 4), (9,), (1, 50)])]
    tensors += [
        random((129,), dtype)[1:].view(2, 64),
        random((3, 4, 5, 6), dtype).to(memory_format=torch.channels_last),
        random((7, 9), dtype).t(),
        random((7, 90), dtype)[:, :9],
    ]
    batch = engine.Batch(tensors)
    assert batch.unit_counts == [len(unit_oracle(t, p)) for t in tensors]
    expected = [norm for t in tensors for norm in unit_oracle(t, p)]
    np.testing.assert_allclose(numbers(batch.unit_norms(p)), expected, rtol=1e-13)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_pattern_of_half_precision_is_read_and_rounded_right(dtype):
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    for factor in (0.3, 1.7, 1e-3):
        tensor = patterns.clone().to(DEVICE).reshape(-1, 1)
        batch = engine.Batch([tensor])
        np.testing.assert_array_equal(numbers(batch.unit_norms(2.0)), np.abs(numbers(patterns)))
        batch.scale_(torch.tensor(factor, dtype=torch.float64, device=DEVICE))
        expected = (patterns.double() * factor).to(dtype)
        lost = expected.isnan()
        assert torch.equal(lost, tensor.cpu().view(-1).isnan())
        assert torch.equal(bits(tensor).view(-1)[~lost], bits(expected)[~lost])


# --- scaling --------------------------------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("each", [False, True])
def test_scale(dtype, each):
    tensors = [random(shape, dtype, seed) for seed, shape in enumerate(SHAPES)]
    tensors += [random((CHUNK * 2 + 3,), dtype)[1:], random((7, 90), dtype)[:, :9]]
    count = len(tensors)
    factors = (
        torch.linspace(0.1, 0.9, count, dtype=torch.float64)
        if each
        else torch.tensor(0.3, dtype=torch.float64)
    )
    expected = [(t.double().cpu() * f).to(dtype) for t, f in zip(tensors, factors.expand(count), strict=True)]
    engine.Batch(tensors).scale_(factors.to(DEVICE))
    for tensor, wanted in zip(tensors[:-1], expected, strict=False):
        assert torch.equal(bits(tensor), bits(wanted)), tensor.shape
    # The last has gaps and is the reference's, which rounds a half's coefficient to float32 first.
    torch.testing.assert_close(tensors[-1].cpu(), expected[-1], rtol=2 * torch.finfo(dtype).eps, atol=0)


@needs_kernels
def test_a_tiny_coefficient_loses_no_digits():
    tensor = random((100,), torch.float32) * 1e30
    factor = 1.2345678 * 2.0**-140
    expected = (tensor.double().cpu() * factor).float()
    assert expected.abs().max() > 1e-12
    engine.Batch([tensor]).scale_(torch.tensor(factor, dtype=torch.float64, device=DEVICE))
    assert torch.equal(bits(tensor), bits(expected))


@needs_kernels
def test_a_coefficient_of_nan_or_zero():
    tensors = [random((50,), torch.float32) for _ in range(2)]
    engine.Batch(tensors).scale_(torch.tensor([math.nan, 0.0], dtype=torch.float64, device=DEVICE))
    assert tensors[0].isnan().all()
    assert (tensors[1] == 0).all()


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_stays_nan_whatever_its_bits(dtype):
    # The NaN that GPUs make: rounding its bits up would give a number.
    factor = torch.tensor(2**63 - 1, dtype=torch.int64).view(torch.float64)
    tensors = [random((50,), dtype), random((5, 10), dtype)]
    engine.Batch(tensors[:1]).scale_(factor.to(DEVICE))
    engine.Batch(tensors[1:]).scale_units_(factor.repeat(5).to(DEVICE))
    assert tensors[0].isnan().all()
    assert tensors[1].isnan().all()


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_coefficient_of_one_changes_no_bit(dtype):
    width = torch.finfo(dtype).bits // 8
    payload = torch.tensor(np.random.default_rng(0).integers(0, 256, CHUNK * 2 * width, dtype=np.uint8))
    tensors = [payload.view(dtype).clone().to(DEVICE), random((40,), dtype)]
    before = [bits(t).clone() for t in tensors]
    batch = engine.Batch(tensors)
    batch.scale_(torch.tensor([1.0, 0.5], dtype=torch.float64, device=DEVICE))
    assert torch.equal(bits(tensors[0]), before[0])
    assert not torch.equal(bits(tensors[1]), before[1])
    batch.scale_(torch.tensor(1.0, dtype=torch.float64, device=DEVICE))
    assert torch.equal(bits(tensors[0]), before[0])


@pytest.mark.skipif(not INTERPRETED, reason="needs memory that cannot be written: in the interpreter")
def test_nothing_is_written_where_nothing_changes():
    with tempfile.TemporaryFile() as file:
        file.write(np.ones(CHUNK * 2 + 100, dtype=np.float32).tobytes())
        file.flush()
        memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)  # writing here would end the process
        tensor = torch.frombuffer(memory, dtype=torch.float32)
        engine.Batch([tensor]).scale_(torch.ones((), dtype=torch.float64))
        engine.Batch([tensor]).scale_(torch.ones(1, dtype=torch.float64))
        rows = tensor[:60].view(6, 10)
        engine.Batch([rows]).scale_units_(torch.ones(6, dtype=torch.float64))
        assert engine.Batch([tensor]).clamp_(-1.0, 1.0)[0].item() == 0
        assert tensor.sum() == CHUNK * 2 + 100
        del tensor, rows


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scale_units(dtype):
    tensors = [random(shape, dtype, seed) for seed, shape in enumerate([*UNITS, (), (0, 4), (9,), (1, 50)])]
    tensors += [
        random((3, 4, 5, 6), dtype).to(memory_format=torch.channels_last),
        random((7, 9), dtype).t(),
        random((7, 90), dtype)[:, :9],
    ]
    batch = engine.Batch(tensors)
    total = sum(batch.unit_counts)
    factors = torch.linspace(0.1, 0.9, total, dtype=torch.float64)
    factors[::3] = 1.0
    before = [t.clone() for t in tensors]
    batch.scale_units_(factors.to(DEVICE))
    for tensor, old, own in zip(tensors, before, factors.split(batch.unit_counts), strict=True):
        own = own.reshape(-1, *[1] * (tensor.ndim - 1)) if tensor.ndim else own[0]
        expected = (old.double().cpu() * own).to(dtype)
        torch.testing.assert_close(tensor.cpu(), expected, rtol=2 * torch.finfo(dtype).eps, atol=0)
        kept = (own == 1.0).expand(tensor.shape)
        assert torch.equal(tensor.cpu()[kept], old.cpu()[kept])


@needs_kernels
def test_autograd_is_told_of_the_change():
    weight = torch.ones(3, device=DEVICE, requires_grad=True)
    saved = torch.ones(3, device=DEVICE)
    product = weight * saved
    engine.Batch([saved]).scale_(torch.tensor(0.5, dtype=torch.float64, device=DEVICE))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


# --- clamping -------------------------------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize("as_tensors", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_clamp(dtype, as_tensors):
    tensors = [random(shape, dtype, seed) for seed, shape in enumerate([*SHAPES, (4, 6)])]
    tensors[-1][0, :4] = torch.tensor([math.nan, math.inf, -math.inf, -0.0])
    tensors.append(random((7, 90), dtype)[:, :9])
    low, high = -0.7, 1.3
    before = [t.clone() for t in tensors]
    bounds = [torch.tensor(b, dtype=torch.float64, device=DEVICE) if as_tensors else b for b in (low, high)]
    beyond, norm, after = engine.Batch(tensors).clamp_(*bounds)
    rounded = [torch.tensor(bound, dtype=torch.float64).to(dtype).item() for bound in (low, high)]
    for i, (tensor, old) in enumerate(zip(tensors, before, strict=True)):
        expected = old.clamp(*rounded)
        assert torch.equal(bits(tensor), bits(expected)), i
        assert beyond[i].item() == np.sum((numbers(old) < rounded[0]) | (numbers(old) > rounded[1])), i
        np.testing.assert_allclose(norm[i].item(), oracle(old, 2.0), rtol=1e-13)
        np.testing.assert_allclose(after[i].item(), oracle(expected, 2.0), rtol=1e-13)


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("low", "high"), [(-math.inf, math.inf), (-1e300, 1e300), (0.0, 0.0), (1.0, -1.0), (-math.inf, -1e300)]
)
def test_clamp_at_the_edges(dtype, low, high):
    tensor = random((100,), dtype)
    largest = torch.finfo(dtype).max
    expected = tensor.clone()
    if high <= largest:
        expected.clamp_(max=max(high, -largest))
    if low >= -largest:
        expected.clamp_(min=min(low, largest, high))
    before = tensor.clone()
    beyond = engine.Batch([tensor]).clamp_(low, high)[0]
    assert torch.equal(bits(tensor), bits(expected))
    assert beyond.item() == (tensor != before).sum().item()


@needs_kernels
def test_the_squares_of_clamped_float64_may_leave_the_range():
    tensor = torch.full((30,), 1e200, dtype=torch.float64, device=DEVICE)
    beyond, before, after = engine.Batch([tensor]).clamp_(-1e199, 1e199)
    np.testing.assert_allclose([before.item(), after.item()], [1e200 * 30**0.5, 1e199 * 30**0.5], rtol=1e-13)
    assert beyond.item() == 30


# --- the rest -------------------------------------------------------------------------------------


def odd_tensors():
    sparse = torch.sparse_coo_tensor([[0, 2]], [[3.0, 4.0], [0.5, 0.0]], (4, 2), device=DEVICE).coalesce()
    unlike = torch.ones(3, device=DEVICE).as_subclass(type("Own", (torch.Tensor,), {}))
    expanded = torch.full((1, 4), 2.0, device=DEVICE).expand(3, 4).contiguous()[:, ::2]
    return [
        sparse,
        torch.tensor([3 + 4j, 1j], device=DEVICE),
        unlike,
        expanded,
        torch._neg_view(torch.tensor([1.0, -5.0], device=DEVICE)),
        torch.tensor([6.0, 8.0], device=DEVICE),
    ]


def test_what_is_plain():
    found = [engine._is_plain(tensor, DEVICE) for tensor in odd_tensors()]
    assert found == [False, False, False, False, False, True]
    assert engine._is_plain(torch.nn.Parameter(torch.ones(2, 3, device=DEVICE)).t(), DEVICE)
    assert not engine._is_plain(torch.ones(2, dtype=torch.int64, device=DEVICE), DEVICE)
    assert not engine._is_plain(torch.ones(3, device=DEVICE).expand(2, 3), DEVICE)
    assert not engine._is_plain(torch.ones(2, device="meta"), DEVICE)


@needs_kernels
@pytest.mark.parametrize("p", [*ORDERS, 3.0])
def test_odd_tensors_among_plain_ones(p):
    tensors = odd_tensors()
    expected = []
    for tensor in tensors:
        dense = tensor.to_dense() if tensor.is_sparse else tensor
        expected.append(np.linalg.norm(dense.resolve_neg().cpu().numpy().ravel().astype(complex), p))
    np.testing.assert_allclose(numbers(engine.Batch(tensors).norms(p)), expected, rtol=1e-6)
    rows = [np.linalg.norm(row, p) for row in tensors[0].to_dense().cpu().numpy()]
    found = numbers(engine.Batch(tensors).unit_norms(p))
    np.testing.assert_allclose(found[:4], rows, rtol=1e-6)


@needs_kernels
def test_odd_tensors_are_scaled_and_clamped():
    factors = torch.tensor([0.5, 0.25, 2.0, 0.125, 0.5, 0.1], dtype=torch.float64, device=DEVICE)
    tensors, old = odd_tensors(), odd_tensors()
    engine.Batch(tensors).scale_(factors)
    for tensor, before, factor in zip(tensors, old, factors.tolist(), strict=True):
        dense = [t.to_dense() if t.is_sparse else t.as_subclass(torch.Tensor) for t in (tensor, before)]
        torch.testing.assert_close(dense[0], dense[1] * factor)
    tensors = odd_tensors()
    batch = engine.Batch(tensors)
    units = torch.full((sum(batch.unit_counts),), 0.5, dtype=torch.float64, device=DEVICE)
    batch.scale_units_(units)
    torch.testing.assert_close(tensors[0].to_dense(), old[0].to_dense() * 0.5)
    tensors = odd_tensors()
    beyond, before, after = engine.Batch(tensors).clamp_(-4.0, 4.0)
    assert beyond.tolist() == [0, 1, 0, 0, 1, 2]
    assert after[1].item() == pytest.approx(math.sqrt(17), rel=1e-6)
    assert (before[5].item(), after[5].item()) == (10.0, pytest.approx(math.sqrt(32), rel=1e-12))


@needs_kernels
def test_check_passes_here():
    check(DEVICE)


@needs_kernels
def test_check_says_what_differs(monkeypatch):
    monkeypatch.setattr(_triton_check, "_checked", {})
    monkeypatch.setattr(engine.Batch, "scale_", lambda self, coefficients: None)
    with pytest.raises(
        RuntimeError, match=r"cannot be used on \w+.*: scaling of torch.float32, scaling of torch.bf"
    ):
        check(DEVICE)


@needs_kernels
def test_check_says_why_nothing_runs(monkeypatch):
    def broken(*arguments, **constants):
        raise OSError("no compiler")

    monkeypatch.setattr(_triton_check, "_checked", {})
    monkeypatch.setattr(_triton_tables, "_launch", broken)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="OSError: no compiler"):
            check(DEVICE)


# --- on a GPU -------------------------------------------------------------------------------------


def model_gradients(scale=1.0):
    shapes = [(512, 256), (512,), (64, 3, 7, 7), (10, 6000), (300_000,), ()]
    return [random(shape, DTYPES[i % 4], i) * scale for i, shape in enumerate(shapes)]


@needs_gpu
def test_a_step_never_waits_for_the_device():
    check(DEVICE)
    tensors = model_gradients()
    threshold = torch.tensor(1.0, dtype=torch.float64, device=DEVICE)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            batch = engine.Batch(tensors)
            for p in ORDERS:
                norms = batch.norms(p)
            coefficient = (threshold / norms.max()).clamp(max=1.0)
            batch.scale_(coefficient)
            units = batch.unit_norms(2.0)
            batch.scale_units_((threshold / units).clamp(max=1.0))
            batch.clamp_(-0.5, threshold)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert 1 >= coefficient.item() >= 0


@needs_gpu
def test_the_same_bits_every_time():
    tensors = [random((3_000_000,), torch.float32), *model_gradients()]
    first = engine.Batch(tensors).norms(2.0)
    for _ in range(5):
        assert torch.equal(engine.Batch(tensors).norms(2.0), first)


@needs_gpu
def test_tables_are_sent_once_and_anew_when_the_memory_moves():
    tensors = model_gradients()
    batch = engine.Batch(tensors)
    expected = [oracle(t, 2.0) for t in tensors]
    np.testing.assert_allclose(numbers(batch.norms(2.0)), expected, rtol=1e-12)
    known = set(_triton_tables._resident.tables)
    engine.Batch(tensors).norms(2.0)
    assert set(_triton_tables._resident.tables) == known
    moved = [t.clone() * 2 for t in tensors]
    np.testing.assert_allclose(
        numbers(engine.Batch(moved).norms(2.0)), [oracle(t, 2.0) for t in moved], rtol=1e-12
    )


@needs_gpu
def test_another_stream_waits_for_the_tables():
    tensors = model_gradients()
    expected = engine.Batch(tensors).norms(2.0)
    other = torch.cuda.Stream(DEVICE)
    other.wait_stream(torch.cuda.current_stream(DEVICE))
    with torch.cuda.stream(other):
        found = engine.Batch(tensors).norms(2.0)
    torch.cuda.synchronize()
    assert torch.equal(found, expected)


@needs_gpu
def test_the_engine_agrees_with_the_reference_on_a_gpu():
    ours, theirs = model_gradients(10.0), model_gradients(10.0)
    a, b = engine.Batch(ours), reference.Batch(theirs)
    for p in ORDERS:
        torch.testing.assert_close(a.norms(p), b.norms(p), rtol=1e-9, atol=0)
        torch.testing.assert_close(a.unit_norms(p), b.unit_norms(p), rtol=1e-9, atol=0)
    coefficient = torch.tensor(0.37, dtype=torch.float64, device=DEVICE)
    a.scale_(coefficient)
    b.scale_(coefficient)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=2 * torch.finfo(x.dtype).eps, atol=0)


@needs_gpu
def test_a_step_can_be_captured_in_a_graph():
    tensors = model_gradients()
    check(DEVICE)
    coefficient = torch.tensor(0.5, dtype=torch.float64, device=DEVICE)
    engine.Batch(tensors).norms(2.0)
    engine.Batch(tensors).scale_(torch.ones_like(coefficient))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        batch = engine.Batch(tensors)
        norms = batch.norms(2.0)
        batch.scale_(coefficient)
    before = [oracle(t, 2.0) for t in tensors]
    graph.replay()
    torch.cuda.synchronize()
    np.testing.assert_allclose(numbers(norms), before, rtol=1e-12)
    np.testing.assert_allclose([oracle(t, 2.0) for t in tensors], np.array(before) / 2, rtol=1e-2)
