"""What is put into torch when the script has imported it: hooks around every step, losses, own clips."""

import threading
from typing import Any

import torch
from torch.optim import optimizer as torchs

from . import clipwise_module, say  # it has another name here
from .losses import Losses
from .own_clips import OwnClips


def begin() -> None:
    """Listen from now on; clipwise itself is loaded by the first step of an optimizer."""
    losses = Losses()
    clips = OwnClips(losses)
    losses.listen()
    clips.listen()
    observers: list[Any] = []
    making = threading.RLock()

    def before_step(optimizer: Any, args: Any, kwargs: Any) -> Any:
        # Seen by the compiler this hook does nothing: a break in the graph would be a change.
        if torch.compiler.is_compiling():
            return None
        if not observers:
            with making:
                if not observers:
                    observers.append(_observer(losses, clips))
        return None if observers[0] is None else observers[0].before_step(optimizer, args, kwargs)

    before_step.only_reads = True  # type: ignore[attr-defined]  # clipwise's own clips then act as ever
    torchs.register_optimizer_step_pre_hook(before_step)

    def after_step(optimizer: Any, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        try:
            clips.after_step(optimizer)
        except Exception as error:  # an optimizer of a kind of its own: nothing of this ends the training
            say(f"the script's own clips are not told apart: {type(error).__name__}: {error}")

    torchs.register_optimizer_step_post_hook(after_step)


def _observer(losses: Losses, clips: OwnClips) -> Any:
    try:
        return clipwise_module("monitor.observe.steps").Observer(losses, clips, say)
    except ImportError as error:
        missing = getattr(error, "name", None) or str(error)
        say(f"nothing is recorded: this Python lacks {missing} ({error})")
    except Exception as error:
        say(f"nothing is recorded: {type(error).__name__}: {error}")
    return None
