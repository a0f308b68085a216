"""The command as such: words, streams, signals, exit codes, mistakes. No framework is loaded."""

import ast
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial

import pytest

from clipwise.monitor import Store
from clipwise.monitor.observe.settings import BOOTSTRAP
from clipwise.monitor.store import Writer
from tests.monitor.observe.running import ENVIRONMENT, observed, run

SHOW = """
import os, sys
print(sys.argv, sys.path, __file__ if "__file__" in globals() else None, __name__, __package__)
print([name for name in sys.modules if name.partition(".")[0] in ("clipwise", "numpy", "torch", "keras")])
print(sys.stdin.read())
print("on stderr", file=sys.stderr)
sys.exit(7)
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "show.py").write_text(SHOW)
    return tmp_path / "show.py"


def ours(said):
    """Lines of clipwise on stderr, and the others."""
    lines = said.splitlines()
    return [x for x in lines if x.startswith("clipwise")], [x for x in lines if not x.startswith("clipwise")]


def test_a_script_is_as_without(script, tmp_path):
    words = [script.name, "--lr", "1", "-m", "x", "--db", "mine"]
    plain = run(sys.executable, *words, cwd=tmp_path, input="given")
    done = observed("--", sys.executable, *words, cwd=tmp_path, input="given")
    assert (done.returncode, done.stdout) == (7, plain.stdout)
    assert "given" in done.stdout
    mine, others = ours(done.stderr)
    assert others == ["on stderr"]
    assert len(mine) == 1
    assert "no step of an optimizer was seen" in mine[0]
    assert not list(tmp_path.glob("clipwise.db*"))
    # The first word that is no option of observe begins the command, with or without the dashes.
    again = observed(sys.executable, *words, cwd=tmp_path, input="given")
    assert again.stdout == plain.stdout


def test_a_module_is_as_without(script, tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "part.py").write_text("value = 41\n")
    (tmp_path / "package" / "main.py").write_text("from .part import value\nprint(value + 1)\n" + SHOW)
    words = ["-m", "package.main", "--epochs", "3"]
    plain = run(sys.executable, *words, cwd=tmp_path, input="")
    assert plain.stdout.startswith("42\n")
    for form in ([sys.executable, *words], words):
        done = observed("--", *form, cwd=tmp_path, input="")
        assert (done.returncode, done.stdout) == (7, plain.stdout)
    assert observed(*words, cwd=tmp_path, input="").stdout == plain.stdout
    alone = observed("--", "show.py", "a", cwd=tmp_path, input="")
    assert alone.stdout == run(sys.executable, "show.py", "a", cwd=tmp_path, input="").stdout


def test_the_hidden_sitecustomize_runs(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os\nos.environ['SEEN'] = 'hidden one'\n")
    (tmp_path / "a.py").write_text(
        "import os, sys, sitecustomize\nprint(os.environ['SEEN'], sitecustomize.__file__, sys.path)\n"
    )
    env = {"PYTHONPATH": tmp_path}
    plain = run(sys.executable, "a.py", cwd=tmp_path, env=env)
    assert plain.stdout.startswith("hidden one")
    assert observed("--", sys.executable, "a.py", cwd=tmp_path, env=env).stdout == plain.stdout


def test_the_environment_is_as_without_but_for_what_observing_needs(tmp_path):
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    plain = json.loads(run(sys.executable, "-c", code).stdout)
    there = json.loads(observed("--", sys.executable, "-c", code).stdout)
    new = {"PYTHONPATH", "CLIPWISE_OBSERVE", "CLIPWISE_RUN", "CLIPWISE_RUN_NAME"}
    assert {k: v for k, v in there.items() if k not in new} == {
        k: v for k, v in plain.items() if k not in new
    }


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("handled", [True, False])
def test_signals_reach_the_command(name, handled, tmp_path):
    number = getattr(signal, name)
    own = f"signal.signal({int(number)}, lambda *_: (print('cleaned up', flush=True), sys.exit(5)))"
    code = f"import signal, sys, time\n{own if handled else ''}\nprint('there', flush=True)\ntime.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-m", "clipwise", "observe", "--", sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=tmp_path,
        start_new_session=True,
        # A background job of a shell starts with SIGINT ignored, nohup's with SIGHUP, and hands that on.
        preexec_fn=partial(signal.signal, number, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "there\n"
    process.send_signal(number)
    out, said = process.communicate(timeout=30)
    assert process.returncode == (5 if handled else 128 + number), said
    assert out == ("cleaned up\n" if handled else "")
    assert "no step of an optimizer" in said


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_a_killed_command(tmp_path):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert observed("--", sys.executable, "-c", code, cwd=tmp_path).returncode == 137


def test_a_command_that_cannot_start(tmp_path):
    missing = observed("--", "no-such-command-here", cwd=tmp_path)
    assert (missing.returncode, missing.stdout) == (127, "")
    assert missing.stderr == "Error: there is no command 'no-such-command-here'\n"
    (tmp_path / "text").write_text("no program")
    assert observed("--", tmp_path / "text", cwd=tmp_path).returncode == 126
    assert observed("--", sys.executable, "missing.py", cwd=tmp_path).returncode == 2
    assert not list(tmp_path.glob("clipwise.db*"))


def test_mistakes_are_said_before_anything_starts(tmp_path):
    mark = [sys.executable, "-c", "open('started', 'w')"]
    text = tmp_path / "notes.db"
    text.write_bytes(b"my notes, which are no recording\n" * 100)
    foreign = tmp_path / "foreign.db"
    with closing(sqlite3.connect(foreign)) as database:
        database.execute("CREATE TABLE mine (a)")
    newer = tmp_path / "newer.db"
    Writer(newer, "a", "a").finish()
    with closing(sqlite3.connect(newer)) as database:
        database.execute("PRAGMA user_version = 999")
    before = {path: path.read_bytes() for path in (text, foreign, newer)}
    cases = [
        (["--db", text], "not a recording"),
        (["--db", foreign], "is not a recording of clipwise"),
        (["--db", newer], "newer clipwise"),
        (["--db", tmp_path / "none" / "a.db"], "there is no folder"),
        (["--db", tmp_path], "folder"),
        (["--clip", "clip_by_global_nrom(1.0)"], "clip_by_global_norm"),
        (["--clip", "clip_by_global_norm(-1)"], "-1"),
        (["--every", "0"], "0"),
        (["--run", ""], "name"),
    ]
    for options, said in cases:
        done = observed(*options, "--", *mark, cwd=tmp_path)
        assert done.returncode == 2, (options, done.stderr)
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert observed(cwd=tmp_path).returncode == 2
    assert not (tmp_path / "started").exists()
    assert {path: path.read_bytes() for path in before} == before


def test_summary_of_a_recording(tmp_path):
    """A recording made by hand in the place of a training: steps, alerts, the threshold, the next command."""
    code = (
        "import os, time, numpy as np\n"
        "from clipwise.monitor.store import Alert, Rows, Writer\n"
        "w = Writer('my runs.db', os.environ['CLIPWISE_RUN'], os.environ['CLIPWISE_RUN_NAME'])\n"
        "norms = np.tile([1.0, 1.1, 0.9, 1.2, 0.8, 1.0, 1.1, 0.9, 1.0, 60.0], 20)\n"
        "rows = np.stack([np.arange(1, 201), np.full(200, time.time()), norms], axis=1)\n"
        "alert = Alert('spike', 'warning', 10, 'A norm of 60.', 'It is much.', 'Clip.')\n"
        "w.write([Rows('steps', ('time', 'clipwise/norm'), rows)], [alert, alert])\n"
        "w.finish('diverged', 'The run broke down at step 190.')\n"
    )
    done = observed("--db", "my runs.db", "--run", "a b", "--", sys.executable, "-c", code, cwd=tmp_path)
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert lines[0] == "clipwise: run 'a b' in my runs.db: 200 steps, diverged"
    assert lines.pop(1) == "  The run broke down at step 190."
    assert lines[1] == "  gradient norm: median 1, 95 % below 60, largest 60 (step 10)"
    assert lines[2] == "  warning: spike (2 times): A norm of 60."
    assert lines[3].startswith("  Use clip_by_global_norm(1.2).")
    assert lines[4].startswith("    ")
    end = next(place for place, line in enumerate(lines) if line.startswith("  try next"))
    assert max(map(len, lines[:end])) <= 80
    assert lines[end - 2 : end] == [
        "  to look at: clipwise dashboard 'my runs.db'",
        "  more: clipwise suggest 'a b' --db 'my runs.db'",
    ]
    assert lines[end].startswith(
        "  try next: clipwise observe --clip 'clip_by_global_norm(1.2)' --db 'my runs.db' -- "
    )
    with Store(tmp_path / "my runs.db") as store:
        assert len(store.runs()) == 1


def test_a_python_that_is_too_old_says_so_once_and_is_left_alone(tmp_path):
    """What it loads it must understand, hence no annotations; the rest is tried with another version."""
    for name in ("sitecustomize.py", "old_python.py"):
        tree = ast.parse((BOOTSTRAP / name).read_text(encoding="utf-8"), feature_version=(3, 4))
        kinds = {type(node) for node in ast.walk(tree)}
        assert not kinds & {ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Match}
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        assert not any(one.returns or any(a.annotation for a in one.args.args) for one in functions)
    (tmp_path / "torch.py").touch()
    (tmp_path / "losses.py").write_text("here = True")
    code = (
        f"import sys; sys.version_info = (3, 8, 18); sys.path[:0] = [{str(BOOTSTRAP)!r}, '']\n"
        "import sitecustomize, json; print(len(sys.meta_path)); import torch, losses\n"
        "print(losses.here, len(sys.meta_path), any('bootstrap' in entry for entry in sys.path))"
    )
    settings = {"CLIPWISE_OBSERVE": json.dumps({"claims": str(tmp_path)})}
    said = [run(sys.executable, "-S", "-c", code, env=settings, cwd=tmp_path) for _ in range(2)]
    for done in said:
        assert done.returncode == 0, done.stderr
        before, (here, after, shadowed) = [line.split() for line in done.stdout.splitlines()]
        assert (here, int(after), shadowed) == ("True", int(before[0]) - 1, "False")
    sentence = "clipwise observe: nothing is recorded: clipwise needs Python 3.11, and this is 3.8\n"
    assert [done.stderr for done in said] == [sentence, ""]


@pytest.mark.skipif(os.name != "posix", reason="the page is ended by a signal")
def test_nothing_is_left_of_a_command(tmp_path):
    code = "import json, os; print(json.loads(os.environ['CLIPWISE_OBSERVE'])['claims'])"
    done = observed("--", sys.executable, "-c", code, cwd=tmp_path)
    assert not os.path.exists(done.stdout.strip())
