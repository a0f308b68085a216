"""YAML text to plain data, with limits that are checked before aliases are expanded."""

import re
from typing import TYPE_CHECKING, Any

from clipwise.config.paths import MAX_DEPTH, MAX_VALUES
from clipwise.errors import ConfigError

if TYPE_CHECKING:
    import yaml

__all__ = ["read_yaml"]

_MAX_NUMBER = 1000
"""Characters of a number: YAML 1.1 reads ``1:30:00`` to base 60, which takes the square of its length."""


def read_yaml(text: str) -> Any:
    """The content of a YAML document.

    Raises:
        ConfigError: it is malformed, too large or too deep, or PyYAML is not installed.
    """
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ConfigError(
            'reading YAML needs PyYAML, which is not installed: pip install "clipwise[yaml]", or write JSON'
        ) from error
    try:
        return yaml.load(text, Loader=_strict_loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{where}{error.problem or error.context}") from error
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML lets Python's own errors through for a tag that does not fit its text, such as "!!int x".
        raise ConfigError(f"malformed YAML: {error}") from error


def _strict_loader() -> "type[yaml.SafeLoader]":
    """PyYAML's safe loader, but a key given twice is an error, 1e-3 is a number, and limits hold."""
    import yaml

    class StrictLoader(yaml.SafeLoader):
        def __init__(self, stream: Any) -> None:
            super().__init__(stream)
            self.level = self.composed = 0
            # Of each node that is complete: its values, counted as often as they stand in it, and its levels.
            self.extents: dict[yaml.Node, tuple[int, int]] = {}

        def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            is_alias = self.check_event(yaml.AliasEvent)
            self.composed += 1
            self.level += 1
            if self.level > MAX_DEPTH + 1:
                raise yaml.MarkedYAMLError(problem=_DEEP, problem_mark=mark)
            node = super().compose_node(parent, index)
            self.level -= 1
            if node is None:
                return None
            if node not in self.extents:
                if is_alias:  # within what it stands for: levels without end
                    raise yaml.MarkedYAMLError(problem=_DEEP, problem_mark=mark)
                self.extents[node] = self._extent(node, mark)
            values, levels = self.extents[node]
            if self.level + levels > MAX_DEPTH + 1:
                raise yaml.MarkedYAMLError(problem=_DEEP, problem_mark=mark)
            if values > MAX_VALUES or self.composed > 2 * MAX_VALUES:  # a key is composed, and is no value
                raise yaml.MarkedYAMLError(problem=_MANY, problem_mark=mark)
            return node

        def _extent(self, node: yaml.Node, mark: Any) -> tuple[int, int]:
            if isinstance(node, yaml.ScalarNode):
                if node.tag in _NUMBERS and len(node.value) > _MAX_NUMBER:
                    problem = f"a number of {len(node.value):,} characters; at most {_MAX_NUMBER:,} are read"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
                return 1, 1
            inner = [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else node.value
            extents = [self.extents[value] for value in inner]
            return 1 + sum(values for values, _ in extents), 1 + max((n for _, n in extents), default=0)

        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            node = super().compose_mapping_node(anchor)
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if (key.tag, key.value) in seen:
                        raise yaml.MarkedYAMLError(
                            problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark
                        )
                    seen.add((key.tag, key.value))
            return node

    # YAML 1.1 wants a dot in a float, so PyYAML reads 1e-3 as a text.
    StrictLoader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )
    return StrictLoader


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_DEEP = f"nested deeper than {MAX_DEPTH} levels"
_MANY = f"holds more than {MAX_VALUES:,} values, each counted as often as an alias repeats it"
