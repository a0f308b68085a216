"""The short string form, ``"clip_by_global_norm(percentile(10))"``, to plain data and back.

A string is parsed as a Python expression, and its syntax tree is read; it is never evaluated. The result is
the plain data that a JSON file would hold, which `clipwise.config.dicts` checks.
"""

import ast
import warnings
from collections.abc import Mapping
from typing import Any

from clipwise.config.paths import Path, show
from clipwise.config.registry import (
    COMBINATORS,
    NONE,
    Entry,
    find_method,
    find_policy,
    methods,
    policies,
    unknown_key,
)
from clipwise.errors import ConfigError

__all__ = ["MAX_LENGTH", "lone_number", "read_clip", "read_policy", "write"]

MAX_LENGTH = 20_000
"""Characters a string may have; a longer description belongs in a file."""

_NO_CLIP = (NONE, "None")
_CLIP = "a clip such as 'clip_by_global_norm(1.0)'"
_POLICY = "a number or a threshold policy such as 'percentile(10)'"


def read_clip(text: str, path: Path) -> dict[str, Any] | None:
    """The plain data of a clip; None for ``"none"``.

    >>> read_clip("clip_by_norm(1.0, norm=inf)", Path())
    {'method': 'clip_by_norm', 'threshold': 1.0, 'norm': inf}
    """
    reader = _Reader(text, path)
    return reader.clip(reader.tree, path)


def read_policy(text: str, path: Path) -> dict[str, Any]:
    """The plain data of a threshold policy.

    >>> read_policy("percentile(10, window=100)", Path())
    {'policy': 'percentile', 'q': 10, 'window': 100}
    """
    reader = _Reader(text, path)
    found = reader.value(reader.tree, path, takes_policy=True)
    if not isinstance(found, dict):
        raise path.error(f"expected {_POLICY}, got the string {show(text)}; write a number without quotes")
    return found


def write(data: Mapping[str, Any] | None) -> str:
    """The string of canonical plain data, as `clipwise.config.write` makes it."""
    text = _clip_text(data)
    if len(text) > MAX_LENGTH:
        raise ConfigError(
            f"the string of this clip would have {len(text)} characters, more than {MAX_LENGTH}; use to_dict"
        )
    return text


def lone_number(number: object, path: Path) -> ConfigError:
    """The exception for a plain number where a clip is expected."""
    return path.error(
        f"the number {show(number)} alone does not say what it bounds; write for example"
        f" 'clip_by_global_norm({show(number)})'"
    )


class _Reader:
    """Walks the tree of one string."""

    def __init__(self, text: str, path: Path) -> None:
        if not text.strip():
            raise path.error(f"the string is empty; expected {_CLIP}, or {NONE!r}")
        if len(text) > MAX_LENGTH:
            raise path.error(f"the string has {len(text)} characters; at most {MAX_LENGTH} are read")
        self.text = text.strip()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # an unknown escape in a pattern is a mistake
                self.tree: ast.expr = ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            line = f"line {error.lineno}, " if "\n" in self.text else ""
            where = f" ({line}column {error.offset})" if error.offset else ""
            raise path.error(f"cannot read {show(self.text)}: {error.msg}{where}") from error
        except (ValueError, RecursionError, MemoryError) as error:  # a null byte; or Python's parser gave up
            raise path.error(f"cannot read {show(self.text)}: {error or 'too deeply nested'}") from error

    def clip(self, node: ast.expr, path: Path) -> dict[str, Any] | None:
        if isinstance(node, ast.Name):
            return None if node.id in _NO_CLIP else self._call(node.id, [], [], path)
        if isinstance(node, ast.Constant) and node.value is None:
            return None
        if isinstance(node, ast.Call):
            return self._call(self._name(node, path), node.args, node.keywords, path)
        if self.text.endswith((".json", ".yaml", ".yml")):
            raise path.error(
                f"expected {_CLIP}, got {show(self.text)}; a file is read with clipwise.config.load"
            )
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            raise lone_number(node.value, path)
        raise path.error(f"expected {_CLIP}, got {self._source(node)}")

    def value(self, node: ast.expr, path: Path, *, takes_policy: bool) -> Any:
        if isinstance(node, ast.Call) and takes_policy:
            return self._policy(self._name(node, path), node.args, node.keywords, path)
        if isinstance(node, ast.Name):
            if node.id in _NO_CLIP:
                return None
            if node.id in ("inf", "nan"):
                return float(node.id)
            # A bare word: a policy without arguments, or, as in per=tensor, a word that needs no quotes.
            return self._policy(node.id, [], [], path) if takes_policy else node.id
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            number = self.value(node.operand, path, takes_policy=False)
            if isinstance(node.operand, ast.Constant | ast.Name) and type(number) in (int, float):
                return -number if isinstance(node.op, ast.USub) else number
        if isinstance(node, ast.Tuple | ast.List):
            return [self.value(item, path / i, takes_policy=False) for i, item in enumerate(node.elts)]
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | None):
            return node.value
        raise path.error(f"expected {_POLICY if takes_policy else 'a plain value'}, got {self._source(node)}")

    def _call(
        self, name: str, args: list[ast.expr], keywords: list[ast.keyword], path: Path
    ) -> dict[str, Any] | None:
        if name in COMBINATORS:
            if keywords:
                raise path.error(f"{name} takes no keyword arguments, got {keywords[0].arg or '**'}")
            clips = self._chain(args, path) if name == "chain" else self._by_name(args, path)
            return {"method": name, "clips": clips}
        entry = find_method(name, path)
        return {"method": entry.name, **self._arguments(entry, args, keywords, path)}

    def _policy(
        self, name: str, args: list[ast.expr], keywords: list[ast.keyword], path: Path
    ) -> dict[str, Any]:
        entry = find_policy(name, path)
        return {"policy": entry.name, **self._arguments(entry, args, keywords, path)}

    def _chain(self, args: list[ast.expr], path: Path) -> list[dict[str, Any] | None]:
        return [self.clip(arg, path / "clips" / i) for i, arg in enumerate(args)]

    def _by_name(self, args: list[ast.expr], path: Path) -> dict[str, dict[str, Any] | None]:
        if len(args) != 1 or not isinstance(args[0], ast.Dict):
            raise path.error("by_name takes one mapping, as in by_name({'head.*': none, '*': auto})")
        clips: dict[str, dict[str, Any] | None] = {}
        for key, node in zip(args[0].keys, args[0].values, strict=True):
            if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
                got = "**" if key is None else self._source(key)
                raise (path / "clips").error(f"a pattern of parameter names is a quoted string, got {got}")
            if key.value in clips:
                raise (path / "clips" / key.value).error("this pattern is given twice")
            clips[key.value] = self.clip(node, path / "clips" / key.value)
        return clips

    def _arguments(
        self, entry: Entry, args: list[ast.expr], keywords: list[ast.keyword], path: Path
    ) -> dict[str, Any]:
        positional = [p.name for p in entry.parameters.values() if p.positional]
        if len(args) > len(positional):
            raise path.error(
                f"{entry.name} takes {len(positional)} positional arguments at most, got {len(args)}"
            )
        found: dict[str, Any] = {}
        for name, node in [*zip(positional, args, strict=False), *((k.arg, k.value) for k in keywords)]:
            if name is None or isinstance(node, ast.Starred):
                raise path.error(f"{entry.name}: arguments are written out, not unpacked with a star")
            if name not in entry.parameters:
                raise unknown_key(path, name, entry.parameters)
            if name in found:
                raise (path / name).error("this argument is given twice")
            found[name] = self.value(node, path / name, takes_policy=entry.parameters[name].policy)
        return found

    def _name(self, node: ast.Call, path: Path) -> str:
        if not isinstance(node.func, ast.Name):
            raise path.error(f"expected a name before the bracket, got {self._source(node.func)}")
        return node.func.id

    def _source(self, node: ast.expr) -> str:
        return show(ast.get_source_segment(self.text, node) or self.text)


def _clip_text(data: Mapping[str, Any] | None) -> str:
    if data is None:
        return NONE
    method = data["method"]
    if method == "chain":
        return f"chain({', '.join(map(_clip_text, data['clips']))})"
    if method == "by_name":
        parts = ", ".join(f"{pattern!r}: {_clip_text(clip)}" for pattern, clip in data["clips"].items())
        return f"by_name({{{parts}}})"
    return _call_text(methods()[method], data)


def _call_text(entry: Entry, data: Mapping[str, Any]) -> str:
    written: list[str] = []
    leading = True  # only what comes first without a gap can be given by position
    for i, (name, parameter) in enumerate(entry.parameters.items()):
        leading = leading and parameter.positional and name in data and (parameter.required or i == 0)
        if name in data:
            text = _value_text(data[name])
            written.append(text if leading else f"{name}={text}")
    return f"{entry.name}({', '.join(written)})"


def _value_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return _call_text(policies()[value["policy"]], value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value_text, value))}]"
    if isinstance(value, str) and value in ("inf", "-inf"):
        return value
    return repr(value)
