"""The ``clip`` argument of the back ends: a clip, or its description."""

from collections.abc import Iterator, Mapping
from typing import Any

from clipwise import config
from clipwise.clip import AnyClip, ByName, Chain, Clip, leaves_steps_out, singles
from clipwise.errors import ArgumentError
from clipwise.thresholds import Threshold, automatic


def as_clip(clip: AnyClip | str | Mapping[str, Any], *, of_updates: bool = False) -> AnyClip:
    """The clip itself, or the one that a string or a mapping describes; ArgumentError for anything else.

    Args:
        of_updates: whether thresholds may use what only the state of the optimizer tells.
    """
    found = _described(clip, of_updates=of_updates)
    for single in singles(found):
        if isinstance(single.threshold, automatic):
            raise ArgumentError(
                f"{single.threshold!r} gives each example the same weight: it is for per_example of"
                " clipwise.torch and clipwise.jax; for a whole gradient use clip_by_global_norm or autoclip"
            )
    return found


def as_example_clip(clip: AnyClip | str | Mapping[str, Any]) -> AnyClip:
    """`as_clip` for per-example gradients.

    Raises:
        ArgumentError: it clips per unit or per entry, skips steps, or follows the loss of the step.
    """
    found = _described(clip)
    for single in singles(found):
        if single.per not in ("global", "tensor"):
            raise ArgumentError(
                f'an example is clipped as a whole, per="global", or by tensor, per="tensor", got {single!r}'
            )
        if single.action != "clip":
            raise ArgumentError(
                f"{single!r} leaves out whole steps: give it to attach(optimizer, ...), which clips the sum"
            )
        if isinstance(single.threshold, Threshold) and "loss" in single.threshold.needs:
            raise ArgumentError(
                f"{single.threshold!r} follows the loss of the step, which is not known before its examples"
                " are clipped: use a number, a schedule or a threshold of norms"
            )
    return found


def _described(clip: AnyClip | str | Mapping[str, Any], *, of_updates: bool = False) -> AnyClip:
    found = config.parse(clip) if isinstance(clip, str | Mapping) else clip
    if not isinstance(found, Clip | Chain | ByName):
        raise ArgumentError(f"expected a clip such as clipwise.clip_by_global_norm(1.0), got {clip!r}")
    for policy in _policies(found):
        if "moment_ratio" in policy.needs and not of_updates:
            raise ArgumentError(
                f"{policy!r} looks at the second moment of Adam: it clips updates, as in"
                " clipwise.torch.attach(optimizer, updates=clipwise.stable_adamw())"
            )
    return found


def refuse_skips(clip: AnyClip, what: str = "weights are bounded") -> None:
    """ArgumentError for a clip that skips steps, where it would act after the step."""
    if leaves_steps_out(clip):
        raise ArgumentError(f'{what} after a step that has happened: action="skip" is for gradients')


def as_weight_clip(clip: AnyClip | str | Mapping[str, Any]) -> AnyClip:
    """`as_clip` for clips that act on the weights after every step, when the loss is that of the old weights.

    Raises:
        ArgumentError: a threshold follows the loss, or the clip skips steps.
    """
    found = as_clip(clip)
    refuse_skips(found)
    _refuse_losses(found, "a bound of weights")
    return found


def as_update_clip(clip: AnyClip | str | Mapping[str, Any], *, no_moments_in: str | None = None) -> AnyClip:
    """`as_clip` for the differences that steps make.

    Args:
        no_moments_in: the name of a framework whose optimizers' second moments are not read.

    Raises:
        ArgumentError: a threshold follows the loss or needs what is not read, or a clip leaves steps out.
    """
    found = as_clip(clip, of_updates=True)
    for policy in _policies(found):
        if "moment_ratio" in policy.needs and no_moments_in is not None:
            raise ArgumentError(
                f"{policy!r} reads the second moment of Adam in torch.optim, and not in {no_moments_in}: use"
                " updates=clip_by_block_rms(1.0)"
            )
    refuse_skips(found, "updates are clipped")
    _refuse_losses(found, "a clip of updates")
    return found


def _refuse_losses(clip: AnyClip, what: str) -> None:
    for policy in _policies(clip):
        if "loss" in policy.needs:
            raise ArgumentError(
                f"{what} cannot follow the loss, as {policy!r} does: use a number or a schedule"
            )


def _policies(clip: AnyClip) -> Iterator[Threshold]:
    return (one.threshold for one in singles(clip) if isinstance(one.threshold, Threshold))
