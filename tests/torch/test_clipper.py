"""What holds beyond the conformance table: bad gradients, shared and sparse ones, names, reports, state."""

import copy
import dataclasses
import io
import math
from typing import ClassVar, NamedTuple

import pytest
import torch
from torch import nn

import clipwise
from clipwise import thresholds
from clipwise.errors import ArgumentError, NonFiniteError, ParameterError, StateError, ThresholdError

pytestmark = pytest.mark.every_engine

PRESETS = {
    "value": clipwise.clip_by_value(0.01),
    "norm": clipwise.clip_by_norm(0.1),
    "global": clipwise.clip_by_global_norm(0.1),
    "rms": clipwise.clip_by_block_rms(0.01),
    "agc": clipwise.adaptive_grad_clip(0.01),
    "autoclip": clipwise.autoclip(10),
    "zclip": clipwise.zclip(warmup=3),
    "adagc": clipwise.adagc(warmup=3),
    "auto": clipwise.auto(),
    "chain": clipwise.chain(clipwise.clip_by_value(0.1), clipwise.autoclip(50)),
    "by_name": clipwise.by_name({"0.*": clipwise.adagc(warmup=2), "*": clipwise.clip_by_global_norm(0.1)}),
    "unit percentile": clipwise.Clip(thresholds.percentile(50, window=5), per="unit"),
}


def parameter(*values: float, grad=None) -> nn.Parameter:
    made = nn.Parameter(torch.tensor(values))
    made.grad = None if grad is None else torch.as_tensor(grad, dtype=made.dtype)
    return made


def small_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def backward(model: nn.Module, seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    loss = (model(torch.randn(5, 6, generator=generator)) * scale).square().mean()
    loss.backward()
    return loss.detach()


class TestNonFinite:
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("preset", PRESETS)
    def test_error_names_the_first_bad_parameter_and_touches_nothing(self, preset, bad):
        model = small_model()
        backward(model, 0)
        model[2].weight.grad[1, 2] = bad
        before = [p.grad.clone() for p in model.parameters()]
        clipper = clipwise.torch.Clipper(model, PRESETS[preset], nonfinite="error")
        with pytest.raises(NonFiniteError, match=r"'2\.weight' holds NaN or Inf \(1 tensors"):
            clipper.clip_()
        for p, old in zip(model.parameters(), before, strict=True):
            assert torch.equal(p.grad.nan_to_num(), old.nan_to_num())

    def test_skip_leaves_the_gradients_and_says_so(self):
        p = parameter(1.0, 1.0, grad=[math.nan, 2.0])
        report = clipwise.torch.clip_([("w", p)], clipwise.clip_by_global_norm(0.1), nonfinite="skip")
        assert report.skipped
        assert report.worst == "w"
        assert p.grad[1] == 2.0
        assert "step skipped: 1 tensors not finite, first w" in str(report)

    def test_zero_replaces_only_the_bad_entries_and_clips_the_rest(self):
        a, b = parameter(1.0, 1.0, 1.0, grad=[math.nan, 3.0, -math.inf]), parameter(1.0, grad=[4.0])
        report = clipwise.torch.clip_([a, b], clipwise.clip_by_global_norm(1.0), nonfinite="zero")
        torch.testing.assert_close(a.grad, torch.tensor([0.0, 0.6, 0.0]))
        torch.testing.assert_close(b.grad, torch.tensor([0.8]))
        assert float(report.norm) == pytest.approx(5.0, rel=1e-12)
        assert float(report.nonfinite) == 1

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_propagate_gives_what_torch_gives(self, bad):
        ours, theirs = parameter(1.0, 1.0, grad=[bad, 2.0]), parameter(1.0, 1.0, grad=[bad, 2.0])
        clipwise.torch.clip_([ours], clipwise.clip_by_global_norm(1.0))
        nn.utils.clip_grad_norm_([theirs], 1.0)
        assert torch.equal(ours.grad.isnan(), theirs.grad.isnan())

    def test_a_bad_norm_never_enters_a_history(self):
        p = parameter(0.0, grad=[1.0])
        clipper = clipwise.torch.Clipper([p], clipwise.Clip(thresholds.percentile(100)))
        for value in (1.0, math.nan, math.inf, 2.0):
            p.grad = torch.tensor([value])
            clipper.clip_()
        assert float(clipper.report.threshold) == 2.0


class TestWhoIsClipped:
    def test_a_parameter_listed_twice_counts_once(self):
        p = parameter(0.0, 0.0, grad=[3.0, 4.0])
        report = clipwise.torch.clip_([p, p], clipwise.clip_by_global_norm(1.0))
        assert float(report.norm) == 5.0
        torch.testing.assert_close(p.grad, torch.tensor([0.6, 0.8]))

    def test_a_parameter_in_two_shapes_of_a_tied_model_counts_once(self):
        layer = nn.Linear(4, 4, bias=False)
        model = nn.Sequential(layer, layer)
        model(torch.ones(2, 4)).sum().backward()
        expected = layer.weight.grad.norm().item()
        report = clipwise.torch.clip_(model, clipwise.clip_by_global_norm(math.inf))
        assert float(report.norm) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("per", ["element", "tensor", "unit", "global"])
    def test_sparse_gradients_are_coalesced_and_clipped_as_dense(self, per):
        indices, table = torch.tensor([1, 3, 1, 1]), torch.arange(12.0).reshape(6, 2)
        found = {}
        for sparse in (True, False):
            embedding = nn.Embedding(6, 2, sparse=sparse)
            with torch.no_grad():
                embedding.weight.copy_(table)
            (embedding(indices) * torch.tensor([3.0, -4.0])).sum().backward()
            report = clipwise.torch.clip_(embedding, clipwise.Clip(2.0, per=per))
            gradient = embedding.weight.grad
            found[sparse] = (gradient.to_dense() if gradient.is_sparse else gradient, report)
        # A coefficient may be rounded to float32 for dense ones, and the product once.
        torch.testing.assert_close(found[True][0], found[False][0], rtol=2.4e-7, atol=0)
        assert float(found[True][1].norm_after) == pytest.approx(float(found[False][1].norm_after), rel=1e-12)

    def test_agc_of_a_sparse_embedding_is_relative_to_the_rows_it_touches(self):
        found = []
        for sparse in (True, False):
            embedding = nn.Embedding(6, 2, sparse=sparse)
            with torch.no_grad():
                embedding.weight.copy_(torch.arange(1.0, 13.0).reshape(6, 2))
            embedding(torch.tensor([1, 3, 1])).sum().backward()
            clipwise.torch.clip_(embedding, clipwise.adaptive_grad_clip(0.01))
            gradient = embedding.weight.grad
            found.append(gradient.to_dense() if sparse else gradient)
        assert torch.equal(*found)

    def test_an_expanded_gradient_is_scaled_once(self):
        p = nn.Parameter(torch.zeros(3, 4))
        p.sum().backward()
        p.grad = torch.tensor([2.0]).expand(3, 4)
        clipwise.torch.clip_([p], clipwise.clip_by_global_norm(1.0))
        torch.testing.assert_close(p.grad, torch.full((3, 4), 1 / math.sqrt(12.0)))

    def test_a_transposed_gradient_is_clipped_in_place(self):
        p = nn.Parameter(torch.zeros(3, 4))
        p.grad = torch.ones(4, 3).t()
        kept = p.grad
        clipwise.torch.clip_([p], clipwise.clip_by_value(0.5))
        assert kept is p.grad
        assert (kept == 0.5).all()

    def test_mixed_dtypes_share_one_norm(self):
        a = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        b = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
        a.grad, b.grad = torch.full_like(a, 3.0), torch.full_like(b, 4.0)
        report = clipwise.torch.clip_([a, b], clipwise.clip_by_global_norm(1.0))
        assert float(report.norm) == 5.0
        assert a.grad.item() == pytest.approx(0.6, rel=1e-15)

    @pytest.mark.parametrize("parameters", [[], [parameter(1.0)], iter(())])
    def test_nothing_to_clip_gives_norm_0_in_silence(self, parameters, recwarn):
        report = clipwise.torch.clip_(parameters, clipwise.clip_by_global_norm(1.0))
        assert float(report.norm) == 0.0
        assert report.norm.device.type == "cpu"
        assert not report.clipped
        assert not recwarn.list
        assert "not clipped" in str(report)


class TestByName:
    def test_parts_have_their_own_norms_and_none_leaves_alone(self):
        model = small_model()
        backward(model, 0, scale=10.0)
        before = {name: p.grad.clone() for name, p in model.named_parameters()}
        clip = clipwise.by_name(
            {"0.bias": None, "0.*": clipwise.clip_by_norm(0.5), "*": clipwise.clip_by_global_norm(1.0)}
        )
        report = clipwise.torch.clip_(model, clip)
        grads = {name: p.grad for name, p in model.named_parameters()}
        assert torch.equal(grads["0.bias"], before["0.bias"])
        assert grads["0.weight"].norm().item() == pytest.approx(0.5, rel=1e-6)
        rest = torch.cat([grads["2.weight"].ravel(), grads["2.bias"]])
        assert rest.norm().item() == pytest.approx(1.0, rel=1e-6)
        whole = torch.cat([g.ravel() for g in before.values()]).norm().item()
        assert float(report.norm) == pytest.approx(whole, rel=1e-6)
        after = torch.cat([g.ravel() for g in grads.values()]).norm().item()
        assert float(report.norm_after) == pytest.approx(after, rel=1e-6)
        assert set(report.parts) == {"0.*", "*"}
        assert float(report.threshold) == 0.5

    def test_the_first_pattern_wins(self):
        p = parameter(0.0, grad=[10.0])
        clip = clipwise.by_name({"w*": clipwise.clip_by_value(1.0), "*": clipwise.clip_by_value(5.0)})
        clipwise.torch.clip_([("w", p)], clip)
        assert p.grad.item() == 1.0

    def test_a_pattern_that_matches_nothing_is_named_with_the_nearest(self):
        with pytest.raises(
            ParameterError,
            match=r"'encoder\.weight' matches no parameter; the nearest parameters are 'decoder\.weight'",
        ):
            clipwise.torch.clip_(
                [("decoder.weight", parameter(0.0))],
                clipwise.by_name({"encoder.weight": clipwise.clip_by_norm(1.0)}),
            )

    def test_without_names_it_says_how_to_give_them(self):
        with pytest.raises(ParameterError, match=r"give model=\.\.\., or model\.named_parameters\(\)"):
            clipwise.torch.clip_(
                [parameter(0.0)], clipwise.by_name({"encoder.*": clipwise.clip_by_norm(1.0)})
            )


class TestReport:
    def test_the_names_of_metrics(self):
        model = small_model()
        backward(model, 0)
        report = clipwise.torch.clip_(model, clipwise.clip_by_norm(0.1))
        metrics = report.metrics(per_tensor=True)
        assert set(metrics) == {
            *(
                f"clipwise/{n}"
                for n in ("norm", "norm_after", "threshold", "clip_fraction", "direction", "nonfinite")
            ),
            *(f"clipwise/norm/{name}" for name, _ in model.named_parameters()),
        }
        assert report.worst == max(report.norms(), key=report.norms().get)

    @pytest.mark.parametrize("preset", ["norm", "rms", "agc", "value", "chain", "by_name"])
    def test_direction_is_the_cosine_before_and_after(self, preset):
        model = small_model()
        backward(model, 0, scale=30.0)
        before = torch.cat([p.grad.ravel() for p in model.parameters()]).double()
        clip = PRESETS[preset]
        clipper = clipwise.torch.Clipper(model, clip, direction=preset in ("value", "chain", "by_name"))
        clipper.clip_()
        after = torch.cat([p.grad.ravel() for p in model.parameters()]).double()
        expected = torch.nn.functional.cosine_similarity(before, after, dim=0).item()
        assert expected < 0.9999
        # fp32 entries were rounded once: the cosine moves by about their relative rounding, 6e-8.
        assert float(clipper.report.direction) == pytest.approx(expected, abs=1e-7)

    def test_direction_of_value_clipping_is_not_measured_unasked(self):
        p = parameter(0.0, grad=[3.0])
        assert clipwise.torch.clip_([p], clipwise.clip_by_value(1.0)).direction is None

    def test_clip_fraction_counts_groups(self):
        a, b = parameter(0.0, 0.0, grad=[3.0, 0.1]), parameter(0.0, grad=[0.2])
        assert float(clipwise.torch.clip_([a, b], clipwise.clip_by_norm(1.0)).clip_fraction) == 0.5
        a.grad = torch.tensor([3.0, 0.1])
        value = clipwise.torch.clip_([a, b], clipwise.clip_by_value(1.0))
        assert float(value.clip_fraction) == pytest.approx(1 / 3)


class TestState:
    @pytest.mark.parametrize("preset", PRESETS)
    def test_resumed_equals_never_stopped_to_the_bit(self, preset):
        def steps(model, clipper, numbers):
            for n in numbers:
                model.zero_grad()
                loss = backward(model, n, scale=100.0 if n % 5 == 4 else 1.0)
                clipper.observe(loss)
                clipper.clip_()
                with torch.no_grad():
                    for p in model.parameters():
                        p -= 0.1 * p.grad

        straight = small_model()
        steps(straight, clipwise.torch.Clipper(straight, PRESETS[preset]), range(30))

        first = small_model()
        clipper = clipwise.torch.Clipper(first, PRESETS[preset])
        steps(first, clipper, range(17))
        file = io.BytesIO()
        torch.save({"model": first.state_dict(), "clipper": clipper.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        second = small_model(seed=99)
        second.load_state_dict(saved["model"])
        resumed = clipwise.torch.Clipper(second, PRESETS[preset])
        resumed.load_state_dict(saved["clipper"])
        steps(second, resumed, range(17, 30))
        for a, b in zip(straight.parameters(), second.parameters(), strict=True):
            assert torch.equal(a, b)
        assert resumed.steps == 30

    def test_a_state_is_a_copy(self):
        model = small_model()
        clipper = clipwise.torch.Clipper(model, clipwise.autoclip(10, window=3))
        saved = clipper.state_dict()
        before = copy.deepcopy(saved)
        backward(model, 0)
        clipper.clip_()

        def norms(state):
            return state["thresholds"][0]["state"]["ordered"]

        assert torch.equal(norms(saved), norms(before))
        now = norms(clipper.state_dict())
        now.fill_(7.0)  # nor does what becomes of it reach the clipper
        assert not torch.equal(norms(clipper.state_dict()), now)

    @pytest.mark.parametrize("other", ["zclip", "chain", "unit percentile"])
    def test_the_state_of_another_clip_is_refused_and_changes_nothing(self, other):
        clipper = clipwise.torch.Clipper(small_model(), clipwise.autoclip(10))
        foreign = clipwise.torch.Clipper(small_model(), PRESETS[other]).state_dict()
        before = clipper.state_dict()
        with pytest.raises(StateError):
            clipper.load_state_dict(foreign)
        assert torch.equal(
            clipper.state_dict()["thresholds"][0]["state"]["ring"], before["thresholds"][0]["state"]["ring"]
        )

    def test_the_state_of_other_parameters_is_refused_by_name(self):
        first, second = nn.Linear(4, 4), nn.Conv1d(4, 4, 1)
        second.scale = nn.Parameter(torch.ones(1))
        saved = clipwise.torch.Clipper(first, clipwise.adagc()).state_dict()
        pairs = [("bias", first.bias), ("weight", first.weight)]
        with pytest.raises(StateError, match="other parameters: 'weight' was where 'bias' is now"):
            clipwise.torch.Clipper(pairs, clipwise.adagc()).load_state_dict(saved)
        with pytest.raises(StateError, match="other parameters"):
            clipwise.torch.Clipper(second, clipwise.adagc()).load_state_dict(saved)

    def test_an_incomplete_state_changes_nothing(self):
        clipper = clipwise.torch.Clipper(small_model(), clipwise.autoclip(10))
        saved = clipper.state_dict()
        for missing in saved:
            with pytest.raises(StateError):
                clipper.load_state_dict({k: v for k, v in saved.items() if k != missing})
        with pytest.raises(StateError, match="version 2"):
            clipper.load_state_dict(saved | {"version": 2})

    def test_a_clipper_can_be_copied_with_its_model(self):
        model = small_model()
        model.clipper = clipwise.torch.Clipper(list(model.named_parameters()), clipwise.autoclip(10))
        other = copy.deepcopy(model)
        backward(other, 0)
        other.clipper.clip_()
        assert (other.clipper.steps, model.clipper.steps) == (1, 0)

    def test_nonsense_is_refused(self):
        with pytest.raises(StateError, match="not the state of a Clipper"):
            clipwise.torch.Clipper(small_model(), clipwise.zclip()).load_state_dict({"model": 1})


class TestBadInput:
    @pytest.mark.parametrize("bad", [-1.0, math.nan, "1.0", None, True, torch.ones(2), 1j])
    def test_bad_thresholds_are_named_before_anything_is_touched(self, bad):
        with pytest.raises(ThresholdError, match="threshold"):
            clipwise.clip_by_global_norm(bad)

    def test_a_policy_with_a_history_is_refused_by_a_single_call(self):
        p = parameter(0.0, grad=[3.0])
        for clip in (clipwise.autoclip(), PRESETS["chain"], PRESETS["by_name"]):
            with pytest.raises(StateError, match="clip_ keeps none"):
                clipwise.torch.clip_([("0.w", p)], clip)
        assert p.grad.item() == 3.0

    def test_what_is_no_clip_or_no_parameter(self):
        with pytest.raises(ArgumentError, match=r"expected a clip such as .* got 1\.0"):
            clipwise.torch.clip_([parameter(0.0)], 1.0)
        with pytest.raises(ParameterError, match="expected a tensor"):
            clipwise.torch.clip_([1.0], clipwise.clip_by_norm(1.0))
        with pytest.raises(ParameterError, match=r"expected parameters, .* got 3"):
            clipwise.torch.clip_(3, clipwise.clip_by_norm(1.0))
        with pytest.raises(
            ArgumentError, match="nonfinite must be one of skip, zero, error, propagate, got 'ignore'"
        ):
            clipwise.torch.clip_([], clipwise.clip_by_norm(1.0), nonfinite="ignore")

    def test_a_policy_of_the_loss_without_a_loss(self):
        p = parameter(0.0, grad=[3.0])
        clipper = clipwise.torch.Clipper([p], clipwise.Clip(thresholds.reduce_on_instability()))
        with pytest.raises(ParameterError, match=r"clipper\.observe\(loss\)"):
            clipper.clip_()
        assert p.grad.item() == 3.0
        with pytest.raises(ArgumentError, match=r"shape \(2,\)"):
            clipper.observe(torch.ones(2))


class TestOddGradients:
    @pytest.mark.parametrize("preset", [*PRESETS, "element by weight"])
    def test_a_sparse_gradient_without_a_row(self, preset):
        embedding = nn.Embedding(4, 2, sparse=True)
        embedding(torch.empty(0, dtype=torch.long)).sum().backward()
        clip = PRESETS.get(preset, clipwise.clip_by_value(thresholds.relative()))
        clip = clip if preset != "by_name" else clipwise.by_name({"weight": clip.parts[0][1]})
        report = clipwise.torch.Clipper(embedding, clip).clip_()
        assert float(report.norm) == 0.0

    @pytest.mark.parametrize("shape", [(3, 2), (2, 3, 4), ()])
    def test_single_entries_relative_to_their_weights(self, shape):
        p = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        p.grad = torch.ones(shape)
        report = clipwise.torch.clip_([p], clipwise.clip_by_value(thresholds.relative(0.1, 1e-3)))
        expected = (0.1 * p.detach().abs().clamp(min=1e-3)).clamp(max=1.0)
        torch.testing.assert_close(p.grad, expected)
        assert float(report.threshold) == pytest.approx(float(expected.min()), rel=1e-6)

    def test_a_range_of_complex_numbers_is_refused(self):
        p = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
        with pytest.raises(ThresholdError, match=r"no order for the range \(-1, 1\)"):
            clipwise.torch.clip_([p], clipwise.clip_by_value(low=-1.0, high=1.0))

    def test_complex_values_whose_modulus_overflows(self):
        p = nn.Parameter(torch.zeros(1, dtype=torch.complex64))
        p.grad = torch.tensor([3e38 + 3e38j])
        clipwise.torch.clip_([p], clipwise.clip_by_value(1.0))
        assert abs(p.grad.item()) == pytest.approx(1.0, rel=1e-6)

    def test_zeroing_a_conjugated_gradient(self):
        p = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
        p.grad = torch.tensor([math.nan + 1j, 3 + 4j]).conj()
        clipwise.torch.clip_([p], clipwise.clip_by_global_norm(1.0), nonfinite="zero")
        torch.testing.assert_close(p.grad.resolve_conj(), torch.tensor([0, 0.6 - 0.8j]))

    @pytest.mark.parametrize("value", [-1.0, -math.inf])
    def test_a_policy_below_0_never_turns_the_gradient_round(self, value):
        p = parameter(0.0, 0.0, grad=[3.0, 4.0])
        clip = clipwise.Clip(thresholds.schedule(lambda step: torch.tensor(value)))
        clipwise.torch.Clipper([p], clip).clip_()
        assert p.grad.tolist() == [0.0, 0.0]

    def test_a_state_of_another_rule_is_refused(self):
        """What `auto` kept before its rule was another: named, and nothing is loaded."""
        clipper = clipwise.torch.Clipper([parameter(1.0, grad=[1.0])], clipwise.auto())
        state = clipper.state_dict()
        saved = copy.deepcopy(state)
        next(entry for entry in saved["thresholds"] if entry["policy"] == "auto")["state"].pop("travel")
        with pytest.raises(StateError, match="a version with another rule cannot be continued: leave it out"):
            clipper.load_state_dict(saved)
        assert repr(clipper.state_dict()) == repr(state)

    def test_auto_per_tensor_takes_each_tensor_for_itself(self):
        """A bias of one number beside a large matrix: its first step is that of one weight."""
        bias, matrix = parameter(0.0), nn.Parameter(torch.ones(100, 100))
        opt = torch.optim.SGD([bias, matrix], lr=1.0)
        bias.grad, matrix.grad = torch.tensor([1.0]), torch.zeros(100, 100)
        with clipwise.torch.attach(opt, clipwise.Clip(thresholds.auto(), per="tensor")):
            opt.step()
        assert bias.grad.item() == pytest.approx(0.02 * 0.03, rel=1e-6)


@dataclasses.dataclass(frozen=True)
class SecondLargest:
    """A policy of one's own, written with array namespace operations alone: the norm before the largest."""

    needs: ClassVar[frozenset[str]] = frozenset()
    wants: ClassVar[frozenset[str]] = frozenset()
    remembers: ClassVar[bool] = True
    watches_norm: ClassVar[bool] = True

    def init(self, xp, shape):
        return _Two(xp.zeros(shape), xp.zeros(shape))

    def update(self, xp, state, seen):
        norm = xp.asarray(seen.norm)
        first = xp.maximum(state.first, norm)
        second = xp.maximum(state.second, xp.minimum(state.first, norm))
        return xp.where(second > 0, second, xp.inf), _Two(first, second)


class _Two(NamedTuple):
    first: object
    second: object


@pytest.mark.parametrize("per", ["global", "tensor"])
def test_a_policy_of_ones_own(per):
    p = parameter(0.0)
    clipper = clipwise.torch.Clipper([p], clipwise.Clip(SecondLargest(), per=per))
    found = []
    for value in (2.0, 5.0, 3.0, 9.0):
        p.grad = torch.tensor([value])
        clipper.clip_()
        found.append(p.grad.item())
    assert found == [2.0, 2.0, 3.0, 5.0]
    again = clipwise.torch.Clipper([p], clipwise.Clip(SecondLargest(), per=per))
    again.load_state_dict(clipper.state_dict())
    p.grad = torch.tensor([100.0])
    again.clip_()
    assert p.grad.item() == 9.0


class TestReportsTellTheTruth:
    def test_a_chain_of_different_norms_keeps_to_the_first(self):
        p = nn.Parameter(torch.zeros(4, 25))
        for clips, before, after in [
            ((clipwise.clip_by_block_rms(2.0), clipwise.clip_by_global_norm(10.0)), 3.0, 1.0),
            ((clipwise.clip_by_global_norm(50.0), clipwise.clip_by_block_rms(2.0)), 30.0, 20.0),
        ]:
            p.grad = torch.full((4, 25), 3.0)
            report = clipwise.torch.clip_([p], clipwise.chain(*clips))
            assert float(report.norm) == pytest.approx(before)
            assert float(report.norm_after) == pytest.approx(after)

    @pytest.mark.parametrize("per", ["global", "tensor", "unit"])
    def test_what_inf_leaves_is_said(self, per):
        p = parameter(0.0, 0.0, grad=[math.inf, 1.0])
        report = clipwise.torch.clip_([p], clipwise.Clip(1.0, per=per))
        assert math.isnan(p.grad[0])
        assert math.isnan(report.norm_after)
        assert math.isnan(report.direction)

    def test_a_tensor_without_gradient_has_no_say_in_the_threshold(self):
        a, b = parameter(0.0, grad=[0.5]), parameter(0.0, grad=[0.0])
        report = clipwise.torch.Clipper([a, b], clipwise.adagc()).clip_()
        assert float(report.threshold) == 0.5

    @pytest.mark.parametrize("preset", ["chain", "by_name"])
    @pytest.mark.parametrize("gradient", ["missing", "nan"])
    def test_the_parts_are_always_there(self, preset, gradient):
        model = small_model()
        clipper = clipwise.torch.Clipper(model, PRESETS[preset], nonfinite="skip")
        if gradient == "nan":
            backward(model, 0)
            model[0].weight.grad[0, 0] = math.nan
        report = clipper.clip_()
        assert set(report.parts) == ({"0", "1"} if preset == "chain" else {"0.*", "*"})
        assert all(part.skipped == (gradient == "nan") for part in report.parts.values())

    def test_a_part_whose_parameters_have_no_gradient(self):
        model = small_model()
        model[2](torch.ones(1, 8)).sum().backward()
        report = clipwise.torch.Clipper(model, PRESETS["by_name"]).clip_()
        assert float(report.parts["0.*"].norm) == 0.0
        assert float(report.parts["*"].norm) > 0.0


def test_a_schedule_clips_values_too():
    p = parameter(0.0)
    clipper = clipwise.torch.Clipper([p], clipwise.clip_by_value(thresholds.linear(5.0, 1.0, 4)))
    bounds = []
    for _ in range(6):
        p.grad = torch.tensor([100.0])
        clipper.clip_()
        bounds.append(p.grad.item())
    assert bounds == [5.0, 4.0, 3.0, 2.0, 1.0, 1.0]


def test_element_wise_relative_to_the_weights():
    p = parameter(10.0, -0.1, grad=[1.0, 1.0])
    clipwise.torch.clip_([p], clipwise.clip_by_value(thresholds.relative(0.05, 0.1)))
    torch.testing.assert_close(p.grad, torch.tensor([0.5, 0.005]))


def test_the_loss_of_micro_batches_counts_as_their_mean():
    p = parameter(0.0)
    clip = clipwise.Clip(thresholds.reduce_on_instability(1.0, 0.5, patience=1, floor=0.1))
    clipper = clipwise.torch.Clipper([p], clip)
    found = []
    parts = {
        11: (-1.5, 3.5),
        12: (0.5, 3.5),
    }  # the largest jumps, the mean does not; then the mean, from 1 to 2
    for step in range(13):
        p.grad = torch.tensor([0.5])
        for part in parts.get(step, (0.5, 1.5)):
            clipper.observe(part + 0.01 * (step % 3))
        clipper.clip_()
        found.append(float(clipper.report.threshold))
    assert found == [1.0] * 12 + [0.5]


def test_an_observed_loss_is_what_it_was():
    """A sum over micro-batches in one tensor, set back to 0 after the step, and read by a follower later."""
    p = torch.nn.Parameter(torch.zeros(1))
    clipper, heard = clipwise.torch.Clipper([p], clipwise.clip_by_global_norm(1.0)), []
    clipper.follow(lambda clipper, report, loss: heard.append(loss))
    total = torch.zeros(())
    for loss in (1.0, 2.0, 3.0):
        total += loss
        clipper.observe(total)
        p.grad = torch.tensor([0.5])
        clipper.clip_()
        total.zero_()
    assert [float(loss) for loss in heard] == [1.0, 2.0, 3.0]


def some_of_each() -> list[nn.Parameter]:
    entries = torch.Generator().manual_seed(0)
    kinds = dict.fromkeys((torch.float32, torch.bfloat16, torch.float64), ((64, 64), (64,), (), (40, 700)))
    made = []
    for kind, shapes in kinds.items():
        for shape in shapes * 8:
            drawn = torch.randn(2, *shape, generator=entries, device="cpu", dtype=torch.float64)
            values, gradient = drawn.to(kind).unbind()
            made.append(nn.Parameter(values))
            made[-1].grad = gradient
    return made


@pytest.mark.parametrize("name", ["value", "norm", "global", "agc", "autoclip", "unit percentile"])
def test_the_default_device_and_dtype_change_nothing(name):
    def use() -> list:
        model = some_of_each()
        clipper = clipwise.torch.Clipper(model, PRESETS[name])
        clipper.observe(1.0)
        said = [vars(clipper.clip_()) for _ in range(3)]
        clipper.load_state_dict(clipper.state_dict())
        said += [vars(clipper.clip_()), clipwise.torch.clip_grad_norm_(model, 1.0)]
        clipwise.torch.clip_grad_value_(model, 0.5)
        optimizer = torch.optim.SGD(model, lr=0.1, foreach=False)
        clipwise.torch.attach(optimizer, PRESETS[name])
        optimizer.step()
        weights = clipwise.torch.WeightClipper(model, clipwise.clip_by_norm(0.1))
        return [repr(said), weights.clip_(), model, [parameter.grad for parameter in model]]

    expected = use()
    with torch.device("meta"):
        torch.set_default_dtype(torch.float16)
        try:
            found = use()
        finally:
            torch.set_default_dtype(torch.float32)
    assert found[0] == expected[0]
    assert repr(found[1]) == repr(expected[1])
    for one, other in zip(found[2] + found[3], expected[2] + expected[3], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
