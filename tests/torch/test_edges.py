"""Every row of the edge table, for every kind of clip, against a float64 numpy oracle.

What may differ from the oracle follows from the dtype. Measuring is in float64 (`NORM`). An entry is rounded
when it is stored, and where the coefficient is kept in the entry's own dtype, it was rounded once before, and
an engine may take it in two steps: at most three halves of an eps. Half precision is multiplied in float32
and rounded once. Below the smallest normal number all of that is at most one step of the dtype's grid.
"""

import math
import os
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import clipwise
from clipwise import Clip, clip_by_block_rms, clip_by_global_norm, clip_by_norm, clip_by_value
from clipwise.errors import NonFiniteError, ThresholdError
from tests.conformance.table.oracle import p_norm, units
from tests.depth import THOROUGH, pairwise

from .strategies import (
    NORMS,
    REAL,
    THRESHOLDS,
    Given,
    bits,
    entries,
    gradients,
    listings,
    models,
    parameters,
    wide,
)

pytestmark = pytest.mark.every_engine

PER = ("element", "unit", "tensor", "global")
NORM = 1e-12  # a sum of up to some hundred powers in float64, and a root

examples = settings(
    max_examples=75 if THOROUGH else 30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def rounding(dtype: torch.dtype) -> float:
    eps = torch.finfo(dtype).eps
    return (0.5 * eps + 2**-22 if dtype.itemsize == 2 else 1.5 * eps) + NORM


def step(dtype: torch.dtype) -> float:
    return float(torch.finfo(dtype).smallest_normal) * torch.finfo(dtype).eps


def scaled(values: np.ndarray, norms: np.ndarray, threshold: float) -> np.ndarray:
    """``values * min(1, threshold / norms)``, without a step in between that leaves float64."""
    if np.iscomplexobj(values):
        return scaled(values.real, norms, threshold) + 1j * scaled(values.imag, norms, threshold)
    over = norms > threshold
    (value, a), (bound, b), (size, c) = map(np.frexp, (values, threshold, np.where(over, norms, 1.0)))
    with np.errstate(invalid="ignore"):
        return np.where(over, np.ldexp(value * bound / size, a + b - c), values)


class Groups:
    """The groups of entries of some gradients, and what each measures."""

    def __init__(self, present: list[Given], per: str, norm, threshold: float) -> None:
        self.present, self.per, self.norm, self.threshold = present, per, norm, threshold
        whole = [one.values.ravel() for one in present] or [np.zeros(0)]
        self.joint = p_norm(np.concatenate(whole), 2.0 if per == "element" else norm)

    def norms(self, one: Given) -> np.ndarray:
        """The norms of the groups of one gradient, of a shape that goes with its entries."""
        match self.per:
            case "element":
                return np.abs(one.values)
            case "unit" if one.values.ndim > 1 and one.values.size:
                found = [p_norm(unit, self.norm) for unit in units(one.values)]
                return np.reshape(found, (-1, *[1] * (one.values.ndim - 1)))
            case "global":
                return np.asarray(self.joint)
            case _:
                return np.asarray(p_norm(one.values, self.norm))

    def left_alone(self, one: Given) -> np.ndarray:
        """The groups whose norm is not above the threshold, whichever way it is rounded."""
        exact = not np.iscomplexobj(one.values) and (self.per == "element" or self.norm == math.inf)
        return self.norms(one) <= self.threshold * (1.0 if exact else 1 - NORM)

    def count(self) -> tuple[int, int, int]:
        """How many groups are surely clipped, how many may be, and how many there are."""
        surely = perhaps = total = 0
        for one in self.present[:1] if self.per == "global" else self.present:
            dtype = one.parameter.dtype
            # The bound of an entry is rounded to the entry's dtype.
            share, absolute = (torch.finfo(dtype).eps, step(dtype)) if self.per == "element" else (NORM, 0.0)
            norms = self.norms(one)
            surely += int((norms > self.threshold * (1 + share) + absolute).sum())
            perhaps += int((norms > self.threshold * (1 - share) - absolute).sum())
            total += norms.size
        return surely, perhaps, total


def errors_of(expected: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """How far each entry may lie from what the oracle expects."""
    parts = math.sqrt(2) if dtype.is_complex else 1.0  # the real and the imaginary one, each by a step
    return rounding(dtype) * np.abs(expected) + parts * step(dtype)


def check_gradient(one: Given, groups: Groups) -> np.ndarray:
    """One gradient after the clip; returns what the oracle expects, in float64."""
    after, norms, threshold = one.after(), groups.norms(one), groups.threshold
    expected = scaled(one.values, norms, threshold)
    same = np.broadcast_to(groups.left_alone(one), one.values.shape)
    assert np.array_equal(bits(after)[same], one.bits[same]), "changed, though nothing is above the threshold"
    now, allowed = wide(after), errors_of(expected, one.parameter.dtype)
    if os.environ.get("CLIPWISE_ENGINE") == "foreach" and groups.per == "global":
        # There the coefficient is a float32, at worst a subnormal one.
        allowed = allowed + np.abs(one.values) * 2.0**-149
    # Entry for entry, so the direction is kept as well as the norm.
    assert (np.abs(now - expected) <= allowed).all(), f"\n{now}\n{expected}"
    if threshold == 0:
        assert not now.any()
    elif groups.per in ("unit", "tensor"):
        kinds = [units(array) if groups.per == "unit" else [array] for array in (now, allowed)]
        for group, errors, norm in zip(*kinds, norms.ravel(), strict=True):
            check_norm(p_norm(group, groups.norm), min(norm, threshold), groups.norm, errors)
    return expected


def check_norm(reached: float, threshold: float, p, errors: np.ndarray) -> None:
    """A norm, as near as rounding lets it be: ``| ||a + e|| - ||a|| | <= ||e||``; for p < 1, of powers."""
    q = 1.0 if p == "rms" else min(p, 1.0)
    assert abs(reached**q - threshold**q) <= p_norm(errors, p) ** q * (1 + 1e-9) + NORM * threshold**q


def check_report(report, groups: Groups, expected: list[np.ndarray]) -> None:
    """Every field of the report, against the gradients as the oracle has them before and after."""
    present, p = groups.present, 2.0 if groups.per == "element" else groups.norm
    assert float(report.norm) == pytest.approx(groups.joint, rel=NORM, abs=0)
    assert report.norm.shape == report.norm_after.shape == report.clip_fraction.shape == ()

    whole = np.concatenate([array.ravel() for array in expected] or [np.zeros(1)])
    errors = [errors_of(array, g.parameter.dtype).ravel() for g, array in zip(present, expected, strict=True)]
    check_norm(float(report.norm_after), p_norm(whole, p), p, np.concatenate(errors or [np.zeros(1)]))

    surely, perhaps, total = groups.count()
    clipped = round(float(report.clip_fraction) * max(total, 1))
    assert float(report.clip_fraction) == pytest.approx(clipped / max(total, 1), rel=1e-12)
    assert surely <= clipped <= perhaps
    assert bool(report.clipped) == (clipped > 0)

    bound = groups.threshold
    if not present or (groups.per in ("unit", "tensor") and not groups.joint):
        bound = math.inf  # nothing that it could have bounded
    assert float(report.threshold) == bound
    assert (int(report.nonfinite), report.skipped) == (0, False)
    assert list(report.norms()) == list(report.names)
    assert len(report.names) == len(present)
    norms = [p_norm(g.values, 2.0 if p == "rms" else p) for g in present]
    np.testing.assert_allclose(list(report.norms().values()), norms, rtol=NORM, atol=0)


def check(givens: list[Given], clip: Clip, report) -> None:
    """The gradients and the report after one clip."""
    assert all(g.parameter.grad is None for g in givens if g.gradient is None)
    groups = Groups([g for g in givens if g.gradient is not None], clip.per, clip.norm, clip.threshold)
    check_report(report, groups, [check_gradient(g, groups) for g in groups.present])


def apply(way: str, listed: list, clip: Clip, **how):
    """One clip by either way in, which must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if way == "clip_":
            return clipwise.torch.clip_(listed, clip, **how)
        return clipwise.torch.Clipper(listed, clip, **how).clip_()


def preset(per: str, norm, threshold: float) -> Clip:
    """The clip under the field's own name, where it has one."""
    match per, norm:
        case "element", _:
            return clip_by_value(threshold)
        case "tensor", "rms":
            return clip_by_block_rms(threshold)
        case "tensor", _:
            return clip_by_norm(threshold, norm)
        case "global", _:
            return clip_by_global_norm(threshold, norm)
        case _:
            return Clip(threshold, per=per, norm=norm)


@st.composite
def thresholds(draw, givens: list[Given], per: str, norm) -> float:
    """Any threshold, or one near the norm of a group, so that about half of the groups are clipped."""
    present = [g for g in givens if g.gradient is not None]
    groups = Groups(present, per, norm, math.inf)
    sizes = [float(size) for g in present for size in groups.norms(g).ravel()[:9]]
    if not sizes or draw(st.booleans()):
        return draw(st.sampled_from(THRESHOLDS))
    factor = draw(st.sampled_from((1e-6, 1e-3, 0.5, 0.999, 1.0, 1.001, 2.0)))
    return draw(st.sampled_from(sizes)) * factor


WAYS = st.sampled_from(("clip_", "Clipper"))


class TestFinite:
    @pytest.mark.parametrize("per", PER)
    @examples
    @given(st.data())
    def test_any_gradients_any_threshold(self, per, data):
        givens = data.draw(models())
        norm = 2.0 if per == "element" else data.draw(st.sampled_from(NORMS))
        clip = preset(per, norm, data.draw(thresholds(givens, per, norm)))
        check(givens, clip, apply(data.draw(WAYS), data.draw(listings(givens)), clip))

    @pytest.mark.parametrize("per", PER)
    @examples
    @given(st.data())
    def test_again_and_again(self, per, data):
        """A Clipper that is kept: new tensors in other places, other layouts, others missing, each step."""
        givens = data.draw(parameters(least=1))
        norm = 2.0 if per == "element" else data.draw(st.sampled_from(NORMS))
        threshold = data.draw(st.sampled_from((1e-3, 1.0, 10.0)))
        clip = preset(per, norm, threshold)
        clipper = clipwise.torch.Clipper([(g.name, g.parameter) for g in givens], clip)
        for _ in range(3):
            data.draw(gradients(givens))
            check(givens, clip, clipper.clip_())
        for g in givens:  # the same tensors, written anew
            if g.gradient is not None and g.gradient is g.parameter.grad and not g.gradient.is_sparse:
                g.gradient.copy_(data.draw(entries(tuple(g.gradient.shape), g.gradient.dtype)))
                g.values, g.bits = wide(g.gradient), bits(g.gradient)
                g.memory_before = None if g.memory is None else g.memory.clone()
            else:
                g.give(None, "contiguous")
        check(givens, clip, clipper.clip_())

    @pytest.mark.parametrize("per", PER)
    @examples
    @given(st.data())
    def test_threshold_0_gives_zeros(self, per, data):
        givens = data.draw(models())
        norm = 2.0 if per == "element" else data.draw(st.sampled_from(NORMS))
        report = apply(data.draw(WAYS), data.draw(listings(givens)), preset(per, norm, 0.0))
        assert not any(wide(g.after()).any() for g in givens if g.gradient is not None)
        assert float(report.norm_after) == 0.0

    @pytest.mark.parametrize("per", PER)
    @examples
    @given(st.data())
    def test_an_infinite_threshold_changes_nothing(self, per, data):
        givens = data.draw(models())
        norm = 2.0 if per == "element" else data.draw(st.sampled_from(NORMS))
        report = apply(data.draw(WAYS), data.draw(listings(givens)), preset(per, norm, math.inf))
        assert all(g.unchanged() for g in givens)
        assert float(report.norm_after) == pytest.approx(float(report.norm), rel=NORM, abs=0)
        assert not report.clipped

    @pytest.mark.parametrize("per", ["unit", "tensor", "global"])
    @pytest.mark.parametrize("threshold", [1.0, 1e-3, 1e-8, 1e-20, 1e-33])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
    def test_a_coefficient_that_the_dtype_cannot_hold(self, per, threshold, dtype):
        """The gradient and the threshold are ordinary numbers of the dtype; their ratio is not."""
        p = Given("p", nn.Parameter(torch.zeros(2, 2, dtype=dtype)))
        p.give(torch.tensor([[2e38, -1e38], [3.0, 1e-3]]).to(dtype), "contiguous")
        clip = preset(per, 2.0, threshold)
        check([p], clip, apply("clip_", [p.parameter], clip))

    # Values whose norm is exact in every dtype, and what it is.
    EXACT = (
        ((3.0, -4.0), 2.0, 5.0),
        ((3.0, -4.0, 12.0), 1.0, 19.0),
        ((3.0, -4.0), math.inf, 4.0),
        ((1.0, 7.0, -5.0, 5.0), "rms", 5.0),
    )

    @pytest.mark.parametrize("per", ["unit", "tensor", "global"])
    @pytest.mark.parametrize(("values", "norm", "size"), EXACT)
    @examples
    @given(st.data())
    def test_a_norm_that_equals_the_threshold_is_left_alone(self, per, values, norm, size, data):
        dtype = data.draw(st.sampled_from(REAL))
        power = data.draw(st.integers(-10, 8) if dtype == torch.float16 else st.integers(-120, 120))
        p = Given("p", nn.Parameter(torch.zeros(1, len(values), dtype=dtype)))
        exact = torch.tensor([values], dtype=torch.float64) * 2.0**power
        p.give(exact.to(dtype), data.draw(st.sampled_from(("contiguous", "offset", "stepped", "negated"))))
        report = apply("clip_", [p.parameter], preset(per, norm, size * 2.0**power))
        assert p.unchanged()
        assert float(report.norm) == size * 2.0**power
        assert not report.clipped
        assert float(report.clip_fraction) == 0.0

    @pytest.mark.parametrize("dtype", REAL, ids=str)
    @examples
    @given(st.data())
    def test_a_range(self, dtype, data):
        """numpy's clip, with bounds as the dtype rounds them."""
        shape = data.draw(st.sampled_from(((), (0, 3), (5,), (9, 33), (2, 3, 2, 2))))
        p = Given("p", nn.Parameter(torch.zeros(shape, dtype=dtype)))
        layouts = ("contiguous", "offset", "stepped", "transposed", "expanded", "negated")
        p.give(data.draw(entries(shape, dtype)), data.draw(st.sampled_from(layouts)))
        low, high = sorted(data.draw(st.tuples(*[st.sampled_from((-1e30, -0.5, 0.0, 0.1, 2.0, 1e30))] * 2)))
        low, high = data.draw(st.sampled_from(((low, high), (-math.inf, high), (low, math.inf))))
        report = apply("clip_", [p.parameter], Clip((low, high), per="element"))
        largest = torch.finfo(dtype).max
        bounds = wide(torch.tensor([low, high], dtype=torch.float64).clamp(-largest, largest).to(dtype))
        np.testing.assert_array_equal(wide(p.after()), np.clip(p.values, *bounds))
        beyond = ((p.values < bounds[0]) | (p.values > bounds[1])).sum()
        assert float(report.clip_fraction) == pytest.approx(beyond / max(1, p.values.size), abs=1e-12)

    @pytest.mark.parametrize(
        ("per", "layout", "dtype"),
        pairwise(
            PER,
            ("contiguous", "offset", "transposed", "stepped", "expanded"),
            (torch.float32, torch.bfloat16, torch.complex64),
        ),
        ids=str,
    )
    def test_longer_than_any_piece_or_share_of_a_thread(self, per, layout, dtype, monkeypatch):
        if os.environ.get("CLIPWISE_ENGINE") in ("foreach", "reference"):
            # Rows of 512 entries are measured in the entries' own width there.
            monkeypatch.setattr(sys.modules[__name__], "NORM", 1e-6)
        random = np.random.default_rng(1)
        givens = []
        for name, shape in (("weight", (531, 1003)), ("bias", (531,))):
            flat = random.normal(size=shape)
            values = torch.from_numpy(flat * np.exp(1j * flat) if dtype.is_complex else flat).to(dtype)
            givens.append(Given(name, nn.Parameter(torch.zeros(shape, dtype=dtype))))
            givens[-1].give(values, layout)
        clip = preset(per, 2.0, 1.0)
        check(givens, clip, apply("clip_", [(g.name, g.parameter) for g in givens], clip))

    @pytest.mark.parametrize("shape", [(512, 64), (300_007,), (3, 100_001)], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_long_tensors_of_any_magnitude(self, shape, dtype):
        """Longer than what is measured in float64 whatever the engine; squares that float32 does not hold."""
        flat = np.random.default_rng(2).uniform(0.5, 1.5, size=shape)
        magnitudes = (3e20, 1.0, 1e-25, 0.0) if dtype != torch.float16 else (3e4, 1.0, 1e-5, 0.0)
        tensors = [torch.from_numpy(flat * size).to(dtype) for size in magnitudes for _ in range(2)]
        parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for _ in tensors]
        for parameter, tensor in zip(parameters, tensors, strict=True):
            parameter.grad = tensor.clone()
        norms = [p_norm(wide(tensor), 2.0) for tensor in tensors]
        report = clipwise.torch.clip_(parameters, clip_by_norm(0.5))
        np.testing.assert_allclose(list(report.norms().values()), norms, rtol=1e-6)
        for parameter, tensor, norm in zip(parameters, tensors, norms, strict=True):
            expected = wide(tensor) * min(1.0, 0.5 / (norm or 1.0))
            assert (np.abs(wide(parameter.grad) - expected) <= errors_of(expected, dtype) * 1.01).all()
        for parameter, tensor in zip(parameters, tensors, strict=True):
            parameter.grad = tensor.clone()
        per_unit = clipwise.torch.clip_(parameters, Clip(0.5, per="unit"))
        rows = [p_norm(row, 2.0) for tensor in tensors for row in wide(tensor).reshape(-1, shape[-1])]
        assert float(per_unit.clip_fraction) == pytest.approx(np.mean(np.array(rows) > 0.5), abs=1e-12)

    @pytest.mark.parametrize("per", ["unit", "tensor", "global"])
    @examples
    @given(st.data())
    def test_the_direction_reported(self, per, data):
        """The cosine between before and after, free or measured; all as one vector."""
        givens = data.draw(models((torch.float64, torch.float32, torch.complex64), least=1))
        present = [g for g in givens if g.gradient is not None]
        clip = preset(per, 2.0, data.draw(st.sampled_from((1e-3, 1.0, 1e4))))
        measured = data.draw(st.booleans())
        report = apply("clip_", [g.parameter for g in givens], clip, direction=measured)
        whole = [
            np.concatenate([a.ravel() for a in arrays] or [np.zeros(1)])
            for arrays in ([g.values for g in present], [wide(g.after()) for g in present])
        ]
        before, after = (array / (p_norm(array, math.inf) or 1.0) for array in whole)
        lengths = np.linalg.norm(before) * np.linalg.norm(after)
        cosine = 1.0 if lengths == 0 else np.vdot(before, after).real / lengths
        assert float(report.direction) == pytest.approx(cosine, abs=1e-6)


NUMBERS_THAT_ARE_NONE = (
    *[-1, -1e-30, -5e-324, -math.inf, math.nan, np.float32("nan"), "1", "", None, True, False, 1j],
    *[
        [1.0],
        torch.tensor(-1.0),
        torch.tensor(math.nan),
        torch.tensor([1.0, 2.0]),
        np.array([1.0, 2.0]),
        type,  # a class: an object of one would be named by its address, another in each process
    ],
)


class TestBadThresholds:
    @pytest.mark.parametrize("bad", NUMBERS_THAT_ARE_NONE, ids=repr)
    @pytest.mark.parametrize("per", PER)
    def test_are_refused_before_anything_is_touched(self, per, bad):
        p = Given("p", nn.Parameter(torch.zeros(3, 2)))
        p.give(torch.tensor([[3.0, -4.0], [-0.0, 1e-40], [1e38, 3e38]]), "offset")
        with pytest.raises(ThresholdError) as caught:
            apply("clip_", [p.parameter], preset(per, 2.0, bad))
        if isinstance(bad, int | float | str) and bad is not None:
            assert ("NaN" if bad != bad else repr(bad)) in str(caught.value)
        assert p.unchanged()

    @pytest.mark.parametrize(("low", "high"), [(1.0, -1.0), (math.nan, 1.0), (0.0, math.nan), ("a", 1.0)])
    def test_a_range(self, low, high):
        with pytest.raises(ThresholdError):
            clip_by_value(low=low, high=high)

    @pytest.mark.parametrize("way", ["clip_", "Clipper"])
    def test_a_range_for_complex_entries(self, way):
        real = Given("real", nn.Parameter(torch.zeros(2)))
        turning = Given("turning", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))
        real.give(torch.tensor([3.0, 4.0]), "contiguous")
        turning.give(torch.tensor([3.0 + 1.0j, 4.0]), "contiguous")
        with pytest.raises(ThresholdError, match="complex"):
            apply(way, [real.parameter, turning.parameter], clip_by_value(low=-1.0, high=2.0))
        assert real.unchanged()
        assert turning.unchanged()


@st.composite
def spoilt(draw, dtypes=REAL) -> tuple[list[Given], list[Given]]:
    """Gradients of which some hold NaN or Inf, and those that do."""
    givens = draw(parameters(dtypes, least=1))
    bad = []
    for g in givens:
        shape, dtype = tuple(g.parameter.shape), g.parameter.dtype
        spoil = draw(st.booleans())
        layouts = ("contiguous", "offset", "transposed", "stepped", "rows", "expanded", "sparse", "negated")
        g.give(draw(entries(shape, dtype, bad=spoil)), draw(st.sampled_from(layouts)))
        if not np.isfinite(g.values).all():
            bad.append(g)
    return givens, bad


class TestNonFinite:
    @pytest.mark.parametrize("nonfinite", ["skip", "error"])
    @pytest.mark.parametrize("per", PER)
    @examples
    @given(st.data())
    def test_skip_and_error_touch_nothing(self, per, nonfinite, data):
        givens, bad = data.draw(spoilt())
        norm = 2.0 if per == "element" else data.draw(st.sampled_from(NORMS))
        clip = preset(per, norm, data.draw(st.sampled_from((0.0, 1e-3, 1.0))))
        how = (data.draw(WAYS), [(g.name, g.parameter) for g in givens], clip)
        if not bad:
            check(givens, clip, apply(*how, nonfinite=nonfinite))
        elif nonfinite == "error":
            with pytest.raises(
                NonFiniteError, match=rf"'{bad[0].name}' holds NaN or Inf \({len(bad)} tensors"
            ):
                apply(*how, nonfinite=nonfinite)
            assert all(g.unchanged() for g in givens)
        else:
            report = apply(*how, nonfinite=nonfinite)
            assert all(g.unchanged() for g in givens)
            assert report.skipped
            assert report.worst == bad[0].name
            assert int(report.nonfinite) == len(bad)
            assert not report.clipped
            assert not math.isfinite(float(report.norm))

    @pytest.mark.parametrize("per", PER)
    @examples
    @given(st.data())
    def test_zero_clips_what_is_left(self, per, data):
        givens, bad = data.draw(spoilt())
        norm = 2.0 if per == "element" else data.draw(st.sampled_from(NORMS))
        clip = preset(per, norm, data.draw(st.sampled_from((0.0, 1e-3, 1.0, 1e4, math.inf))))
        report = apply(data.draw(WAYS), [(g.name, g.parameter) for g in givens], clip, nonfinite="zero")
        for g in bad:
            g.bits = np.where(np.isfinite(g.values), g.bits, 0)
            g.values = np.where(np.isfinite(g.values), g.values, 0.0)
        groups = Groups(givens, per, clip.norm, clip.threshold)
        for g in givens:
            check_gradient(g, groups)
        assert int(report.nonfinite) == len(bad)
        assert not report.skipped
        assert float(report.norm) == pytest.approx(groups.joint, rel=NORM, abs=0)
        if bad:
            assert report.worst == bad[0].name

    @pytest.mark.parametrize("per", PER)
    @examples
    @given(st.data())
    def test_propagate_spoils_the_group_and_no_other(self, per, data):
        """As every framework: a NaN norm makes NaN of its group, an infinite one leaves 0 and NaN."""
        givens, bad = data.draw(spoilt())
        norm = 2.0 if per == "element" else data.draw(st.sampled_from(NORMS))
        clip = preset(per, norm, data.draw(st.sampled_from((0.0, 1e-3, 1.0))))
        report = apply(data.draw(WAYS), [(g.name, g.parameter) for g in givens], clip)
        groups = Groups(givens, per, clip.norm, clip.threshold)
        assert int(report.nonfinite) == len(bad)
        assert not report.skipped
        if not bad:
            return
        assert not math.isfinite(float(report.norm))
        for g in givens:
            now, sizes = wide(g.after()), np.broadcast_to(groups.norms(g), g.values.shape)
            same = np.broadcast_to(groups.left_alone(g), g.values.shape)
            assert np.array_equal(bits(g.after())[same], g.bits[same])
            finite, sound = np.isfinite(g.values), np.isfinite(sizes)
            expected = scaled(np.where(finite, g.values, 0.0), np.where(sound, sizes, 0.0), clip.threshold)
            if per == "element":
                endless = np.isinf(g.values)
                expected[endless] = np.copysign(clip.threshold, g.values[endless])
                sound = ~np.isnan(g.values)
            else:
                assert not now[np.isinf(sizes) & finite].any()
                assert np.isnan(now[np.isinf(sizes) & ~finite]).all()
            stored = (g.values != 0) | (g.layout != "sparse")  # rows that are not there stay so
            assert np.isnan(now[np.isnan(sizes) & stored]).all()
            allowed = errors_of(expected, g.parameter.dtype)
            assert (np.abs(now - expected)[sound] <= allowed[sound]).all()

    @pytest.mark.parametrize("per", PER)
    @examples
    @given(st.data())
    def test_an_infinite_threshold_touches_no_nan(self, per, data):
        givens, bad = data.draw(spoilt())
        norm = 2.0 if per == "element" else data.draw(st.sampled_from(NORMS))
        report = apply(data.draw(WAYS), [g.parameter for g in givens], preset(per, norm, math.inf))
        for g in givens:
            known = ~np.isnan(g.values)  # a NaN may become another NaN
            assert np.array_equal(bits(g.after())[known], g.bits[known])
            assert np.isnan(wide(g.after())[~known]).all()
        assert int(report.nonfinite) == len(bad)
