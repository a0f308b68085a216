"""Apply each break to a copy of the tree, run the tests that must see it, and say which breaks survive.

python -m tests.mutations                    all that have no result yet, or whose files have changed
python -m tests.mutations --only 'unit|norm'  those whose room or name matches
python -m tests.mutations --list             what there is, and what was found
python -m tests.mutations --unbroken         that the same tests pass where nothing is broken
"""

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path

from tests.mutations.breaks import Break, every
from tests.mutations.tree import ROOT, Tree

CAUGHT, SURVIVED, NOWHERE = "caught", "SURVIVED", "DOES NOT APPLY"
RESULTS = ROOT / ".pytest_cache" / "mutations" / "results.json"
LOG = RESULTS.with_name("last.log")

PASSED, FAILED, INTERRUPTED = 0, 1, 2  # of pytest: an error while collecting counts as the third


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="PATTERN", default="", help="a regular expression")
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument("--again", action="store_true", help="also those that have a result")
    parser.add_argument("--unbroken", action="store_true", help="run the tests of each, without the break")
    asked = parser.parse_args()
    chosen = [
        (room, one)
        for room, breaks in every().items()
        for one in breaks
        if re.search(asked.only, f"{room}: {one.name}")
    ]
    if not asked.list:
        _preload()
        with tempfile.TemporaryDirectory(prefix="clipwise-mutations-") as folder:
            tree = Tree(Path(folder))
            if asked.unbroken:
                return _unbroken(tree, [one for _, one in chosen])
            _run(tree, chosen, again=asked.again)
    return _tell(chosen, quiet=not asked.list)


def _preload() -> None:
    """What takes long and is never broken: each run is a fork of this process."""
    import setuptools  # noqa: F401  # before torch, see tests/conftest.py
    import torch._dynamo  # noqa: F401


def _run(tree: Tree, chosen: list[tuple[str, Break]], *, again: bool) -> None:
    known = _known()
    for number, (room, one) in enumerate(chosen, start=1):
        key, text = one.key(tree.root), one.applied(tree.root)
        if text is None or (key in known and not again):
            continue
        begin = time.monotonic()
        with tree.broken(one.file, text):
            code = tree.test(one.tests, one.env, LOG)
        found = {PASSED: SURVIVED, FAILED: CAUGHT, INTERRUPTED: CAUGHT}.get(code)
        if found is None:
            sys.exit(f"{room}: {one.name}: pytest ended with {code} of {one.tests}, see {LOG}")
        known[key] = found
        RESULTS.write_text(json.dumps(known, indent=1))
        by = re.search(r"^(?:FAILED|ERROR) (\S+)", LOG.read_text(), re.MULTILINE)
        seconds = f"({time.monotonic() - begin:.0f} s)"
        print(
            f"[{number}/{len(chosen)}] {found:8} {room}: {one.name}", by[1] if by else "", seconds, flush=True
        )


def _unbroken(tree: Tree, chosen: list[Break]) -> int:
    failed = 0
    for tests, env in dict.fromkeys((one.tests, tuple(one.env.items())) for one in chosen):
        code = tree.test(tests, dict(env), LOG)
        print("passed" if code == PASSED else f"FAILED ({code})", tests, flush=True)
        failed += code != PASSED
    return 1 if failed else 0


def _tell(chosen: list[tuple[str, Break]], *, quiet: bool) -> int:
    known, counts = _known(), dict.fromkeys((CAUGHT, SURVIVED, NOWHERE, "not run"), 0)
    for room, one in chosen:
        found = known.get(one.key(ROOT), "not run") if one.applied(ROOT) is not None else NOWHERE
        counts[found] += 1
        if not quiet or found != CAUGHT:
            print(f"{found:14} {room}: {one.name}  [{one.file}]")
    print(", ".join(f"{count} {what}" for what, count in counts.items() if count))
    return 1 if counts[SURVIVED] or counts[NOWHERE] else 0


def _known() -> dict[str, str]:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    known: dict[str, str] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return known


if __name__ == "__main__":
    sys.exit(main())
