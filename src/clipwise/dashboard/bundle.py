"""Bundles the page's modules into one script, for a report that is a single file.

Browsers do not load modules in a page that was opened from the disk. Our modules use one form of import and
export only, so that each can be wrapped in a function, with only these two keywords rewritten.
"""

import re

from clipwise.dashboard.assets import assets

IMPORT = re.compile(r'^import \{[^}]*\} from "\./([a-z]+\.js)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async )?function|class|const)", re.MULTILINE)
TOP = re.compile(r"^(?:async )?(?:function|class|const|let) (\w+)", re.MULTILINE)


def bundle(entry: str) -> str:
    """A module and all its imports as one script.

    Each module becomes a function that returns its exports, so that names in different modules do not clash.

    Args:
        entry: name of the module, such as ``report.js``.
    """
    order: list[str] = []
    _collect(entry, order)
    return '"use strict";\n(() => {\n' + "".join(map(_wrapped, order)) + "})();\n"


def _collect(name: str, order: list[str]) -> None:
    """What a module imports comes before it."""
    for needed in IMPORT.findall(_text(name)):
        if needed not in order:
            _collect(needed, order)
    if name not in order:
        order.append(name)


def _text(name: str) -> str:
    return assets()[f"js/{name}"].decode("utf-8")


def _wrapped(name: str) -> str:
    text = _text(name)
    imports = [
        f"const {names} = {_variable(module)};\n"
        for names, module in re.findall(r'^import (\{[^}]*\}) from "\./([a-z]+\.js)";', text, re.MULTILINE)
    ]
    exported = [TOP.match(text[found.end() :]) for found in EXPORT.finditer(text)]
    names = ", ".join(found.group(1) for found in exported if found)
    body = EXPORT.sub("", IMPORT.sub("", text))
    return f"const {_variable(name)} = (() => {{\n{''.join(imports)}{body}return {{ {names} }};\n}})();\n"


def _variable(module: str) -> str:
    return "module_" + module.removesuffix(".js")
