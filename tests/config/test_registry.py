"""The names a configuration may use, and a policy that it cannot hold."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from clipwise import clip_by_global_norm, config, thresholds
from clipwise.config import registry
from clipwise.errors import ConfigError
from clipwise.thresholds import Observation

if TYPE_CHECKING:
    from collections.abc import Sequence


class Policy:
    needs = wants = frozenset()
    remembers = watches_norm = False

    def init(self, xp: Any, shape: tuple[int, ...]) -> Any:
        return ()

    def update(self, xp: Any, state: Any, seen: Observation) -> Any:
        return 1.0, state


@dataclass(frozen=True)
class from_table(Policy):
    """Thresholds of a table."""

    values: list[float]
    last: float = 1.0
    COLUMNS: ClassVar[int] = 1


@dataclass(frozen=True)
class from_sequence(Policy):
    """Thresholds of a sequence, annotated with a name that only type checkers know."""

    values: "Sequence[float]"


@pytest.fixture
def added(monkeypatch):
    """The two, exported as if they were files of clipwise.thresholds."""
    for policy in (from_table, from_sequence):
        monkeypatch.setattr(thresholds, policy.__name__, policy, raising=False)
        monkeypatch.setattr(thresholds, "__all__", [*thresholds.__all__, policy.__name__])
    registry.policies.cache_clear()
    yield
    registry.policies.cache_clear()


@pytest.mark.parametrize("name", ["from_table", "from_sequence"])
@pytest.mark.parametrize("form", ["{}([1.0])", "policy"])
def test_a_policy_that_no_configuration_can_hold_is_refused_alone(added, name, form):
    given = {"policy": name, "values": [1.0]} if form == "policy" else form.format(name)
    message = rf"{name} cannot be configured: its parameter 'values' is annotated .*\[float\].* in Python"
    with pytest.raises(ConfigError, match=message):
        config.parse({"method": "clip_by_global_norm", "threshold": given})
    policy = getattr(thresholds, name)([1.0])
    with pytest.raises(ConfigError, match=message):
        config.to_dict(clip_by_global_norm(policy))


def test_every_other_name_works_beside_it(added):
    assert config.parse("clip_by_global_norm(percentile(10))") == config.parse("autoclip(10)")
    assert config.parse({"method": "clip_by_norm", "threshold": "mean(2)"}).threshold == thresholds.mean(2)
    assert set(registry.policies()) > {"from_table", "from_sequence", "percentile"}
    known = config.schema()["$defs"]
    assert "policy.percentile" in known
    assert not {"policy.from_table", "policy.from_sequence"} & set(known)


def test_every_policy_and_preset_of_our_own_can_be_configured():
    """But for what takes a function. A new annotation is taught to `registry._kind`."""
    for entry in [*registry.policies().values(), *registry.methods().values()]:
        entry.refuse_unknown(config.paths.Path())
    assert [entry.name for entry in registry.policies().values() if not entry.writable] == ["schedule"]
