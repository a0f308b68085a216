"""Runs rules: each rule judges every moment and raises an alert once its patience is exhausted."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from clipwise.errors import ArgumentError, did_you_mean
from clipwise.monitor.rules._base import Rule, Watcher
from clipwise.monitor.rules._joiner import StepJoiner
from clipwise.monitor.rules._shown import Shown
from clipwise.monitor.store import Alert, Moment

Failed = Callable[[Rule, Exception], None]


@dataclass
class _Watch:
    """A rule over one source: how many bad moments in a row there were, and when it last spoke."""

    rule: Rule
    watcher: Watcher
    source: str
    bad: int = 0
    spoke: int | None = None

    def see(self, moment: Moment) -> Alert | None:
        rule = self.rule
        bad = self.watcher.judge(moment)
        if bad is None:
            return None
        self.bad = self.bad + 1 if bad else 0
        step = moment.step
        # A training that begins anew counts from 1 again, hence the distance.
        if self.bad < rule.patience or (self.spoke is not None and abs(step - self.spoke) < rule.cooldown):
            return None
        self.spoke = step
        said = self.watcher.finding()
        sentences = said.seen, said.why, said.advice
        return Alert(rule.name, rule.level, step, *sentences, moment.rank, moment.time, self.source)


@dataclass
class _Source:
    """All rules over one source."""

    watches: list[_Watch]
    failed: Failed | None
    shown: Shown = field(default_factory=Shown)
    joiner: StepJoiner = field(default_factory=StepJoiner)

    def see(self, moments: Sequence[Moment]) -> Iterator[Alert]:
        for moment in moments:
            for watch in tuple(self.watches):
                try:
                    alert = watch.see(moment)
                except Exception as error:
                    if self.failed is None:
                        raise
                    self.watches.remove(watch)
                    self.failed(watch.rule, error)
                    continue
                if alert is not None:
                    yield alert


class Engine:
    """Passes moments to rules and returns their alerts.

    A rule raises an alert if ``patience`` moments in a row, among those that it can judge, looked bad, and
    then no other one within ``cooldown`` steps. Each source is judged separately and named in the alert.

    Args:
        rules: rules with different names.
        failed: called with a rule that raises an error; that rule is not used any more, the others continue.
            By default the error is raised.

    Attributes:
        rules: the same, as a tuple.
        may_stop, may_skip: whether any rule has this action.

    Raises:
        ArgumentError: two rules have the same name, or an object is not a rule.

    >>> from clipwise.monitor.rules import LossNonfinite, Moment
    >>> engine = Engine([LossNonfinite()])
    >>> [alert.seen for alert in engine.see(Moment(7, "", {"loss": float("nan")}))]
    ['The loss is NaN at step 7.']
    """

    def __init__(self, rules: Sequence[Rule], failed: Failed | None = None) -> None:
        self.rules, self._failed = tuple(rules), failed
        self._by_name: dict[str, Rule] = {}
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise ArgumentError(
                    "rules must be instances such as LossNonfinite() from clipwise.monitor.rules, got"
                    f" {rule!r}"
                )
            if rule.name in self._by_name:
                raise ArgumentError(f"two rules are called {rule.name!r}: give each once")
            self._by_name[rule.name] = rule
        self.may_stop = any("stop" in rule.actions for rule in self.rules)
        self._skipping = [rule for rule in self.rules if "skip" in rule.actions]
        self.may_skip = bool(self._skipping)
        self._sources: dict[str, _Source] = {}
        self._skip_watchers: dict[str, tuple[Shown, list[tuple[Rule, Watcher]]]] = {}

    def rule(self, name: str) -> Rule:
        """The rule with this name; ArgumentError if there is none."""
        if name not in self._by_name:
            raise ArgumentError(f"no rule {name!r}. {did_you_mean(name, self._by_name)}")
        return self._by_name[name]

    def see(self, moment: Moment) -> list[Alert]:
        """The alerts that a moment raises.

        A step with NaN or Inf is judged once the norms of its parameters are known, or with the next step.
        """
        name = moment.source
        source = self._sources.get(name)
        if source is None:
            watches = [_Watch(rule, rule.watch(name), name) for rule in self.rules]
            source = self._sources[name] = _Source(watches, self._failed)
        shown = source.shown.of(moment)
        return [] if shown is None else list(source.see(source.joiner.add(shown)))

    def close(self) -> list[Alert]:
        """The alerts at the end of a run, for a step whose parameters' norms never came."""
        return [alert for source in self._sources.values() for alert in source.see(source.joiner.rest())]

    def skips(self, moment: Moment) -> bool:
        """Whether a rule with the action ``"skip"`` judges the coming step as bad.

        Patience does not apply, and the moment does not count for `see`: pass it there afterwards.
        """
        name, bad = moment.source, False
        found = self._skip_watchers.get(name)
        if found is None:
            found = self._skip_watchers[name] = Shown(), [(rule, rule.watch(name)) for rule in self._skipping]
        source, watchers = found
        shown = source.of(moment)
        if shown is None:
            return False
        for rule, watcher in tuple(watchers):
            try:  # each has to see it, for what it learns of it
                bad = watcher.judge(shown) is True or bad
            except Exception as error:
                if self._failed is None:
                    raise
                watchers.remove((rule, watcher))
                self._failed(rule, error)
        return bad
