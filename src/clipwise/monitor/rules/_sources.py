"""Whose values a moment holds: several clippers, such as a GAN's two, are judged each on their own."""

from clipwise.monitor.rules.moment import Moment

__all__ = ["Sources"]

LOSSES = ("loss", "train_loss", "train/loss", "training_loss", "training/loss")
"""Names under which trainers log the training loss; the first that comes is the loss."""

HELD = 100
"""Moments with norms of parameters that wait until it is known whose they may be."""

_MARK = "clipwise/"
_OF_WEIGHTS = f"{_MARK}at_bound"


class Sources:
    """Takes moments apart by source, and the source out of the names.

    ``"critic/clipwise/norm"`` is ``"clipwise/norm"`` of the source ``"critic"``. A source is known by such a
    name: ``"val/accuracy"`` and Keras' ``"lstm/kernel"`` have none. Norms of parameters that come before
    anything else wait for that.

    A source with ``"clipwise/at_bound"`` clips weights: nothing else is shown of what it does, since rules
    would take it for what was done to gradients.
    """

    def __init__(self) -> None:
        self._names: dict[str, tuple[str, str]] = {}
        self._known: list[str] = []
        self._of_weights: set[str] = set()
        self._loss: str | None = None
        self._waiting: list[Moment] = []
        self._plain = True  # as long as every name is as it should be, a moment is passed on as it is

    def split(self, moment: Moment) -> list[tuple[str, Moment]]:
        """The parts of a moment, each with its source, after those that waited for it."""
        names, known = self._names, len(self._known)
        for name in moment.values:
            if name not in names:
                self._learn(name)
        if self._plain and not self._waiting and (known or not moment.layers):
            return [("", moment)]
        parts: list[tuple[str, Moment]] = []
        if len(self._known) > known:
            waiting, self._waiting = self._waiting, []
            parts = [part for held in waiting for part in self._parts(held)]
        return parts + self._parts(moment)

    def _parts(self, moment: Moment) -> list[tuple[str, Moment]]:
        found: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
        for name, value in moment.values.items():
            source, short = self._names[name]
            if source in self._of_weights and short.startswith(_MARK) and short != _OF_WEIGHTS:
                continue
            found.setdefault(source, ({}, {}))[0][short] = value
        unknown: dict[str, float] = {}
        for name, norm in moment.layers.items():
            source = self._owner(name)
            if not source and "" not in self._known:
                unknown[name] = norm
                continue
            if source in self._of_weights:
                continue
            short = name[len(source) + 1 :] if source else name
            found.setdefault(source, ({}, {}))[1][short] = norm
        if unknown:
            held = Moment(moment.step, {}, unknown, moment.rank, moment.time)
            self._waiting = [*self._waiting[1 - HELD :], held]
        return [
            (source, Moment(moment.step, values, layers, moment.rank, moment.time))
            for source, (values, layers) in found.items()
        ]

    def _owner(self, name: str) -> str:
        owners = [source for source in self._known if source and name.startswith(f"{source}/")]
        return max(owners, key=len, default="")

    def _learn(self, name: str) -> None:
        source, short = "", name
        if name in LOSSES:
            self._loss = self._loss or name
            short = "loss" if name == self._loss else name if name != "loss" else "other_loss"
        elif name.startswith(_MARK):
            self._know("")
        elif f"/{_MARK}" in name:
            source, _, rest = name.partition(f"/{_MARK}")
            short = _MARK + rest
            self._know(source)
        else:  # of the user's own: "critic/loss" once there is a critic
            source = self._owner(name)
            short = name[len(source) + 1 :] if source else name
        self._names[name] = source, short
        if short == _OF_WEIGHTS:
            self._of_weights.add(source)
        self._plain = self._plain and name == short and not self._of_weights

    def _know(self, source: str) -> None:
        if source in self._known:
            return
        self._known.append(source)
        for name, (owner, _) in list(self._names.items()):  # what came before its source was known
            if source and not owner and name.startswith(f"{source}/"):
                self._names[name] = source, name[len(source) + 1 :]
