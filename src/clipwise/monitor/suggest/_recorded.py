"""A suggestion from a recording."""

import contextlib
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipwise import config
from clipwise.clip import AnyClip, ByName, Chain, Clip, Norm
from clipwise.errors import ClipwiseError, StoreError, did_you_mean
from clipwise.monitor.store import NORM, PREFIX, Floats, Run, Series, Store, is_figure, is_part
from clipwise.monitor.store.naming import PART
from clipwise.monitor.suggest._given import Given
from clipwise.monitor.suggest._held import what_held
from clipwise.monitor.suggest._typical import kind_of
from clipwise.monitor.suggest.condition import losses_of, places_of
from clipwise.monitor.suggest.multiples import multiple_of_another
from clipwise.monitor.suggest.suggestion import Suggestion, suggestion_of

THRESHOLD, FRACTION, AFTER = (f"{PREFIX}{name}" for name in ("threshold", "clip_fraction", "norm_after"))
ODD = 0.01

Marks: TypeAlias = NDArray[np.bool_]


def suggest_run(
    store: Store,
    run: int | str | Run | None = None,
    *,
    kind: str | None = None,
    source: str | None = None,
    loss: str | None = None,
) -> Suggestion:
    """Recommend a threshold from a recorded run: see `suggest`.

    Args:
        store: the recording.
        run: as for `Store.run`; by default the newest.
        kind: kind of model, as for `suggest`.
        source: the clipper whose norms are used, if several were recorded; "" is one of them.
        loss: name of the recorded loss, of that source or without a source; by default the training loss.

    Returns:
        A `Suggestion`.

    Raises:
        StoreError: the run, source or loss does not exist, there are no norms, or there are several sources
            and none was named.
        ArgumentError: the kind is unknown.

    >>> import clipwise, os, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "runs.db")
    >>> with clipwise.Monitor(path, rules=[]) as monitor:
    ...     for step in range(100):
    ...         monitor.log(step=step + 1, **{"clipwise/norm": 1.0 + 59.0 * (step % 20 == 0)})
    >>> with clipwise.monitor.Store(path) as store:
    ...     suggest_run(store).headline
    'Use clip_by_global_norm(1.0).'
    """
    kind = kind_of(kind)
    found = run if isinstance(run, Run) else store.run(run)
    sources = store.clippers(found.id, weights=False)
    source = _source(found, sources, source)
    losses = _losses(store, found, source, loss)
    series = store.series(found.id, [NORM, THRESHOLD, FRACTION, AFTER], source)
    norms = series.get(NORM)
    if norms is None or not len(norms.values):
        raise StoreError(f"run {found.name!r} has no gradient norm yet")
    # A norm below 0 was never measured; it would come from a damaged file.
    if (norms.values < 0).any():
        raise StoreError(f"run {found.name!r} holds a norm below 0: the file is damaged")
    thresholds, fraction, after = (_at(norms, series.get(name)) for name in (THRESHOLD, FRACTION, AFTER))
    clipped = None if fraction is None else np.nan_to_num(fraction) > 0
    several = sum(not is_part(one) for one in sources) > 1
    clip = _clip(found, source, thresholds, several)
    made = suggestion_of(
        Given(
            norms=norms.values,
            losses=np.zeros(0) if losses is None else losses.values,
            loss_at=np.zeros(0, dtype=np.int64) if losses is None else places_of(norms, losses),
            kind=kind,
            order=_order(clip),
            thresholds=_thresholds(norms.values, thresholds, clipped, clip),
            clipped=clipped,
            clip=clip,
            steps=norms.steps,
            unknown=several and clip is None,
            after=after,
        )
    )
    more = what_held(store, found.id, source), multiple_of_another(store, found, source)
    return replace(made, reasons=(*made.reasons, *(str(one) for one in more if one)))


def _source(run: Run, sources: list[str], source: str | None) -> str:
    """The one that is asked for, or the one that there is."""
    if not sources:
        raise StoreError(
            f"run {run.name!r} has no gradient norms: attach a clipper to the Monitor, or use"
            " clipwise observe"
        )
    if source is None:
        if len(sources) == 1:
            source = sources[0]
        else:
            known = ", ".join(repr(name) for name in sources)
            raise StoreError(f"run {run.name!r} has norms of {known}: name one as source (--source)")
    elif source not in sources:
        known = did_you_mean(source, filter(None, sources)) if any(sources) else "It has only one."
        raise StoreError(f"run {run.name!r} has no source {source!r}. {known}")
    return source


def _losses(store: Store, run: Run, source: str, asked: str | None) -> Series | None:
    """Those that were asked for; else those of the source, or those that are nobody's."""
    if asked is None:
        return losses_of(store, run.id, source)
    whose = dict.fromkeys((source, ""))
    for one in whose:
        if asked in store.names(run.id, one):
            return store.series(run.id, [asked], one).get(asked)
    logged = [n for one in whose for n in store.names(run.id, one) if n != "time" and not is_figure(n)]
    hint = did_you_mean(asked, logged) if logged else "None was logged."
    raise StoreError(f"run {run.name!r} has no series {asked!r}. {hint}")


def _at(norms: Series, other: Series | None) -> Floats | None:
    """Another series at the steps of the norms; NaN where it has none."""
    if other is None:
        return None
    if len(other.steps) == len(norms.steps) and (other.steps == norms.steps).all():
        return other.values
    found = np.full(len(norms.steps), np.nan)
    place = places_of(norms, other)
    same = norms.steps[place] == other.steps
    found[place[same]] = other.values[same]
    return found


def _clip(run: Run, source: str, thresholds: Floats | None, several: bool) -> AnyClip | None:
    """What was done to the gradients; None where they were only measured, or it cannot be read.

    Of several clippers a run keeps the first one's clip: it is this one's where the thresholds say so.
    """
    bounded = np.zeros(0) if thresholds is None else thresholds[np.isfinite(thresholds)]
    if run.clip is None or not len(bounded):
        return None
    with contextlib.suppress(ClipwiseError):
        clip = config.parse(run.clip)
        if is_part(source):
            clip = _part(clip, source)
        if not several or (isinstance(clip, Clip) and clip.per == "global" and _is_all(clip, bounded)):
            return clip
    return None


def _part(clip: AnyClip | None, source: str) -> AnyClip | None:
    """What is done to a part, as the clip of the whole says it."""
    parts = dict(clip.parts) if isinstance(clip, ByName) else {}
    return parts.get(source.partition(PART)[2])


def _is_all(clip: Clip, thresholds: Floats) -> bool:
    """Whether these are the one threshold of a clip; they are recorded in single precision at times."""
    return isinstance(clip.threshold, float | int) and np.allclose(thresholds, clip.threshold, rtol=1e-6)


def _order(clip: AnyClip | None) -> Norm:
    """In which norms were recorded: the clip's own; for single entries 2."""
    while isinstance(clip, Chain):
        clip = clip.clips[0]
    return clip.norm if isinstance(clip, Clip) else 2.0


def _thresholds(
    norms: Floats, values: Floats | None, clipped: Marks | None, clip: AnyClip | None
) -> Floats | None:
    """Those of the global norm: only they can be compared with the norms."""
    if values is None or (clip is not None and not (isinstance(clip, Clip) and clip.per == "global")):
        return None
    bounds = np.where(np.isnan(values), np.inf, values)
    if clip is None and clipped is not None:  # not known what they bounded: it shows in what was clipped
        finite = np.isfinite(norms)
        if np.mean((norms[finite] > bounds[finite]) != clipped[finite]) > ODD:
            return None
    return bounds
