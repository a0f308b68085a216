"""The figures, against numbers worked out by hand and a written-out loop."""

import math
import statistics

import numpy as np
import pytest

from clipwise.lab.compare.figures import error_reduction, find_target, measure, spikes
from clipwise.lab.record import Evaluation
from tests.lab.records import clipped, record

NAN, INF = math.nan, math.inf


def test_norms_and_clipping_by_hand() -> None:
    run = clipped(loss=[1.0] * 5, norm=[1.0, 2.0, 3.0, 4.0, 10.0], threshold=2.5)
    found = measure(run)
    assert (found.norm_median, found.norm_max) == (3.0, 10.0)
    assert found.norm_p95 == pytest.approx(8.8)  # 4 + 0.8 * (10 - 4): linear between the two largest
    assert (found.clipped_steps, found.clip_fraction, found.threshold) == (0.6, 0.6, 2.5)


def test_best_is_looked_for_before_the_divergence() -> None:
    found = measure(record(loss=[1.0, 1.0, 1e5, 1e6], held_out=[4.0, 3.0, 2.0, 1.0]))
    assert (found.diverged_at, found.best, found.best_step) == (3, 3.0, 2)
    found = measure(record(loss=[1.0, 1e5, 1e6], norm=[1.0] * 3, held_out=[275946.0]))
    assert math.isnan(found.best)
    assert found.best_step is None


def test_share_of_steps_and_share_of_groups_differ() -> None:
    found = measure(clipped(fraction=[0.0, 0.5, 0.25, 0.25]))
    assert (found.clipped_steps, found.clip_fraction) == (0.75, 0.25)


def test_a_norm_that_is_not_finite_is_counted_and_left_out_of_the_rest() -> None:
    found = measure(record(norm=[1.0, NAN, INF, 3.0]))
    assert (found.norm_median, found.norm_max, found.nonfinite_steps) == (2.0, 3.0, 2)


def test_a_run_without_a_finite_norm_has_no_norm() -> None:
    found = measure(record(loss=[NAN, NAN], norm=[NAN, NAN]))
    assert math.isnan(found.norm_median)
    assert math.isnan(found.roughness)
    assert (found.diverged_at, found.nonfinite_steps) == (1, 2)


def test_an_empty_record_is_measured() -> None:
    found = measure(record(loss=[]))
    assert found.steps == 0
    assert not found.diverged
    assert math.isnan(found.final)


def written_out(loss: list[float]) -> list[bool]:
    """The definition of a spike as a plain loop."""
    seen: list[float] = []
    found = []
    for value in loss:
        if not math.isfinite(value):
            found.append(False)
            continue
        before = seen[-100:]
        if len(before) < 20:
            found.append(False)
        else:
            median = statistics.median(before)
            mad = statistics.median(abs(x - median) for x in before)
            found.append(value > median + 5 * max(1.4826 * mad, 0.01 * abs(median)))
        seen.append(value)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_spikes_are_those_of_the_written_out_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    loss = 2.0 + 0.1 * rng.standard_normal(400)
    loss[rng.integers(0, 400, 12)] += 3.0
    loss[rng.integers(0, 400, 5)] = NAN
    loss[rng.integers(0, 400, 3)] = INF
    expected = written_out(loss.tolist())
    assert sum(expected) > 3
    assert spikes(loss).tolist() == expected


def test_spikes_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = np.random.default_rng(0).exponential(size=10_250)  # more than one chunk of 10,000
    assert spikes(loss).tolist() == written_out(loss.tolist())


def test_a_constant_loss_with_rounding_has_no_spikes() -> None:
    loss = [1.0, 1.0 + 1e-9] * 60
    assert not spikes(loss).any()


def test_roughness_by_hand() -> None:
    # steps of 1, 2 and 1 between finite neighbours (the NaN breaks two), median of {2, 3, 1, 2, 3} is 2
    assert measure(record(loss=[2.0, 3.0, 1.0, NAN, 2.0, 3.0])).roughness == pytest.approx(
        (1 + 2 + 1) / 3 / 2
    )


def test_roughness_of_numbers_near_the_largest_float_does_not_raise() -> None:
    assert measure(record(loss=[1e308, -1e308, 1e308])).roughness == INF


def test_final_loss_is_the_median_of_the_last_twentieth() -> None:
    loss = [9.0] * 95 + [1.0, 5.0, 2.0, 4.0, 3.0]
    assert measure(record(loss=loss)).final_loss == 3.0


def test_nan_to_the_end_is_divergence_and_what_was_evaluated_before_is_not_the_end() -> None:
    run = record(loss=[4.0, 3.0, 2.0, NAN, NAN])
    run.evaluations = [Evaluation(2, 1.0, {"bits": 3.1})]
    found = measure(run)
    assert found.diverged_at == 4
    assert math.isnan(found.final)
    assert (found.best, found.best_step) == (3.1, 2)


def test_a_loss_that_never_comes_back_has_blown_up() -> None:
    found = measure(record(loss=[1.0, 0.9, 50.0, 0.8, 1e6, 1e7, 1e8], held_out=[1e9]))
    assert (found.diverged_at, found.final) == (5, 1e9)


@pytest.mark.parametrize("last", [1e9, NAN])
def test_one_bad_batch_at_the_end_is_no_divergence(last: float) -> None:
    run = record(loss=[1.0] * 99 + [last], held_out=[0.5, 0.4])
    run.evaluations[-1].metrics["loss"] = 0.3
    assert not measure(run).diverged


def test_an_infinite_loss_with_a_finite_but_hopeless_model_is_divergence() -> None:
    run = record(loss=[1.0, 1e5, INF])
    run.evaluations = [Evaluation(3, 1.0, {"bits": 1e10, "loss": 1e20})]
    assert measure(run).diverged_at == 2


def test_weights_broken_by_the_last_step_are_divergence() -> None:
    assert measure(record(held_out=[1.0, NAN])).diverged_at == 4


def test_a_finite_metric_of_a_model_with_an_infinite_loss_is_no_result() -> None:
    run = record(metric="f1", lower_is_better=False)
    run.evaluations = [Evaluation(4, 1.0, {"f1": 0.0, "loss": NAN})]
    found = measure(run)
    assert found.diverged
    assert found.best_step is None


def test_learned() -> None:
    assert measure(record(loss=[4.0, 3.0])).learned
    assert not measure(record(loss=[4.0, 5.0])).learned


@pytest.mark.parametrize(
    ("base", "value", "lower", "expected"),
    [
        (8.0, 2.0, True, 75.0),
        (2.0, 3.0, True, -50.0),
        (0.6, 0.8, False, 50.0),
        (0.8, 0.6, False, -100.0),
        (0.0, 0.0, True, 0.0),
        (0.0, 1.0, True, None),
        (NAN, 1.0, True, None),
        (1.0, INF, True, None),
    ],
)
def test_error_reduction(base: float, value: float, lower: bool, expected: float | None) -> None:
    found = error_reduction(base, value, lower_is_better=lower)
    assert found == (None if expected is None else pytest.approx(expected))


def test_error_reduction_against_a_diverged_baseline_is_undefined() -> None:
    bad = record(loss=[1.0, NAN], held_out=[1e17])
    assert measure(clipped(held_out=[2.0]), baseline=bad).error_reduction is None
    assert measure(clipped(held_out=[2.0]), baseline=record(held_out=[8.0])).error_reduction == 75.0


def test_target_is_the_worst_of_the_good_runs() -> None:
    runs = [record(held_out=[v]) for v in (2.0, 2.15, 2.3)] + [record(loss=[1.0, NAN], held_out=[1.0])]
    assert find_target(runs) == 2.15  # 2.3 is more than 10 % above 2.0; the last one diverged


def test_target_where_more_is_better_goes_by_the_error() -> None:
    runs = [record(held_out=[v], metric="f1", lower_is_better=False) for v in (0.9, 0.895, 0.8)]
    assert find_target(runs) == 0.895  # errors 0.1, 0.105 and 0.2


def test_no_target_where_every_run_diverged_or_was_interrupted() -> None:
    assert find_target([record(loss=[NAN]), record(held_out=[2.0], interrupted=True)]) is None


def test_steps_and_seconds_to_the_target() -> None:
    run = record(held_out=[4.0, 2.0, 3.0, 1.0])
    found = measure(run, target=2.5)
    assert (found.steps_to_target, found.seconds_to_target) == (2, 1.0)
    assert measure(run, target=0.5).steps_to_target is None
    better = record(held_out=[0.2, 0.7], metric="f1", lower_is_better=False)
    assert measure(better, target=0.7).steps_to_target == 4
