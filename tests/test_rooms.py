"""One rule for underscores: what has none is in the docs, what has one stays within its room."""

import ast
import re
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
GRAPH = grimp.build_graph("clipwise", cache_dir=None)


def is_private(name: str) -> bool:
    """Whether a module, or a package above it, begins with an underscore."""
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def named(text: str) -> set[str]:
    """The modules that the tree of rooms in docs/architecture.md names, indented below their folders."""
    block = re.search(r"^    src/clipwise/\n((?:      .*\n)+)", text, re.MULTILINE)
    assert block is not None
    found, folders = set(), [(0, "clipwise")]
    for line in block[1].splitlines():
        depth = len(line) - len(line.lstrip())
        while folders[-1][0] >= depth:
            folders.pop()
        folder = re.match(r" +(\w+)/ ", line)
        if folder:
            folders.append((depth, f"{folders[-1][1]}.{folder[1]}"))
            found.add(folders[-1][1])
        found |= {f"{folders[-1][1]}.{name}" for name in re.findall(r"(\w+)\.py\b", line)}
    return {name.removesuffix(".__init__") for name in found}


def test_no_private_module_is_imported_from_another_room():
    found = {
        (module, imported)
        for module in GRAPH.modules
        for imported in GRAPH.find_modules_directly_imported_by(module)
        if is_private(imported) and room(module) != room(imported)
    }
    assert not found


def test_no_private_name_is_imported_from_another_module():
    found = set()
    for path in (ROOT / "src" / "clipwise").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clipwise"):
                folder = ROOT.joinpath("src", *node.module.split("."))
                names = [name.name for name in node.names if is_private(name.name)]
                found |= {f"{node.module}.{name}" for name in names if not list(folder.glob(f"{name}*"))}
    assert not found


def test_the_tree_of_rooms_names_every_public_module_and_none_that_is_not_there():
    tree = named((ROOT / "docs" / "architecture.md").read_text())
    public = {module for module in GRAPH.modules if not is_private(module) and module != "clipwise.__main__"}
    public -= {module for module in public if module.endswith(".__main__")}
    missing, gone = public - tree - {"clipwise"}, tree - GRAPH.modules - {"clipwise"}
    assert not missing, f"not in the tree of docs/architecture.md: {', '.join(sorted(missing))}"
    assert not gone, f"in the tree of docs/architecture.md, and nowhere else: {', '.join(sorted(gone))}"
