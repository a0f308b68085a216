"""The recorder's use of rules: passes steps to them and carries out their actions."""

from collections.abc import Callable, Iterable, Sequence

from clipwise.errors import ArgumentError
from clipwise.monitor._examples import ExampleNames
from clipwise.monitor._rows import Item
from clipwise.monitor._warning import say
from clipwise.monitor.notify import Notifier
from clipwise.monitor.rules import Engine, Rule
from clipwise.monitor.store import Alert, Moment


class Alerting:
    """Rules for the steps of one process.

    Args:
        rules: the rules, with different names.
        notifier: sends notifications.
        examples: whether alerts name the examples of their step, if those are recorded.

    Attributes:
        engine: runs the rules.
        stopping: the alert because of which the training should stop; None if there is none.
    """

    def __init__(self, rules: Sequence[Rule], notifier: Notifier | None, *, examples: bool = False) -> None:
        self._examples = ExampleNames() if examples else None
        self.engine = Engine(rules, self._left)
        self.stopping: Alert | None = None
        self._notifier = notifier
        self._warned: set[str] = set()
        asks = [rule.name for rule in rules if "notify" in rule.actions]
        if asks and notifier is None:
            raise ArgumentError(
                f"the rule {asks[0]!r} sends notifications: give an address with notify=, such as"
                ' notify=["mailto://user:password@example.com"]'
            )

    @property
    def cooldowns(self) -> dict[str, int]:
        """The number of steps for which each rule is silent after an alert."""
        return {rule.name: rule.cooldown for rule in self.engine.rules}

    def see(self, moments: Iterable[Moment], items: Iterable[Item] = ()) -> list[Alert]:
        """The alerts for some steps; a stop is requested at once.

        Args:
            items: what the steps were made of.
        """
        for item in items:
            if self._examples is not None:
                self._examples.see(item)
        return self._heard(alert for moment in moments for alert in self.engine.see(moment))

    def rest(self) -> list[Alert]:
        """At the end of the run: the alerts for steps that were waiting for more data."""
        return self._heard(self.engine.close())

    def act(self, alerts: Iterable[Alert]) -> None:
        """Carry out the actions of alerts that no other process has raised."""
        for alert in alerts:
            for action in self.engine.rule(alert.rule).actions:
                if action == "warn":
                    say(f"{alert}")
                elif action == "notify" and self._notifier is not None:
                    self._notifier.send(alert)
                elif callable(action):
                    self._call(action, alert)

    def close(self) -> None:
        if self._notifier is not None:
            self._notifier.close()

    def _heard(self, alerts: Iterable[Alert]) -> list[Alert]:
        found = []
        for alert in alerts:
            alert = alert if self._examples is None else self._examples.named(alert)
            found.append(alert)
            if self.stopping is None and "stop" in self.engine.rule(alert.rule).actions:
                self.stopping = alert
        return found

    def _left(self, rule: Rule, error: Exception) -> None:
        """A rule that fails is asked no more; neither the others nor the training end with it."""
        if rule.name not in self._warned:
            self._warned.add(rule.name)
            say(f"the rule {rule.name!r} failed and is switched off: {type(error).__name__}: {error}")

    def _call(self, action: Callable[[Alert], None], alert: Alert) -> None:
        try:
            action(alert)
        except Exception as error:
            name = getattr(action, "__name__", repr(action))
            if name not in self._warned:
                self._warned.add(name)
                failed = f"{type(error).__name__}: {error}"
                say(f"the action {name} of the rule {alert.rule!r} failed: {failed}")
