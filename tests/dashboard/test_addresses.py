"""What the server answers: data, files, mistakes, tokens, names, and files that are no recordings."""

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
import urllib.request
from http.client import HTTPConnection
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from clipwise.dashboard import Dashboard
from clipwise.dashboard.access import token_in, unseen
from clipwise.dashboard.app import make_app
from clipwise.dashboard.assets import assets
from clipwise.dashboard.guard import HEADERS
from clipwise.dashboard.recording import Recording
from clipwise.dashboard.watch import Watch
from clipwise.errors import ArgumentError
from clipwise.monitor.store import Store, Writer
from clipwise.monitor.suggest import suggest_run

from .databases import HOSTILE, hostile, steps, two_sources, typical

TOKEN = "a-token-of-24-characters"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.db"


def client(path, host="127.0.0.1", **options):
    recording = Recording(path)
    app = make_app(recording, Watch(path), host=host, **options)
    return TestClient(app, base_url="http://localhost:8765", follow_redirects=False)


def test_runs_and_a_run(path):
    run = typical(path)
    http = client(path)
    listed = http.get("/api/runs").json()
    assert listed["state"]["kind"] == "ready"
    assert [(one["id"], one["name"], one["steps"], one["status"]) for one in listed["runs"]] == [
        (run.id, "lstm", 500, "finished")
    ]
    one = http.get("/api/run", params={"run": run.id}).json()["run"]
    assert one["sources"] == [""]
    assert one["logged"] == [{"source": "", "name": "loss"}, {"source": "", "name": "accuracy"}]
    assert one["command"] == "python train.py"
    assert [alert["rule"] for alert in one["alerts"]] == ["gradient_spike", "loss_nonfinite"]


def test_series(path):
    run = typical(path)
    asked = {"run": run.id, "name": ["loss", "clipwise/norm", "clipwise/threshold", "none"], "buckets": 1000}
    found = client(path).get("/api/series", params=asked).json()["series"][str(run.id)][""]
    assert set(found) == {"loss", "clipwise/norm", "clipwise/threshold"}
    norm = found["clipwise/norm"]
    expected = [float(f"{v:.7g}") if np.isfinite(v) else None for v in run.norm]
    assert norm["line"]["x"] == run.step.tolist()
    assert norm["line"]["y"] == expected
    assert norm["marks"] == [[126, "inf", 1], [167, "nan", 1]]
    part = client(path).get("/api/series", params=asked | {"low": 100, "high": 110}).json()
    assert part["series"][str(run.id)][""]["loss"]["line"]["x"] == list(range(99, 112))


def test_an_infinite_threshold_is_a_gap_and_no_mark(path):
    run = two_sources(path)
    http = client(path)
    asked = {"run": run, "source": ["critic", "generator"], "name": ["clipwise/threshold", "loss"]}
    found = http.get("/api/series", params=asked).json()["series"][str(run)]
    assert {source: list(own) for source, own in found.items()} == {
        "critic": ["clipwise/threshold"],
        "generator": ["loss"],
    }
    found = found["critic"]["clipwise/threshold"]
    assert found["marks"] == []
    assert set(found["line"]["y"]) == {None}
    assert found["last"] == [100, "inf"]
    layers = http.get("/api/layers", params={"run": run, "source": "critic"}).json()["layers"]
    assert layers["names"] == ["a.weight"]


def test_counts(path):
    run = typical(path)
    http = client(path)
    for threshold in (0.0, 0.5, 1.0, 59.9, 60.0):
        found = http.get("/api/clipped", params={"run": run.id, "threshold": threshold}).json()
        assert found["clipped"] == int((run.norm[np.isfinite(run.norm)] > threshold).sum())
    asked = {"run": run.id, "low": 11, "high": 60}
    part = http.get("/api/distribution", params=asked).json()["distribution"]
    assert part["count"] == 50
    assert part["clipped"] == [int((run.norm[10:60] > t).sum()) for t in part["thresholds"]]


def test_what_is_written_later_is_there_at_the_next_question(path):
    run = typical(path, finish=False)
    http = client(path)
    asked = {"run": run.id, "name": "loss"}
    assert http.get("/api/series", params=asked).json()["series"]["1"][""]["loss"]["count"] == 500
    run.writer.write([steps(("loss",), [501], [7.25])])
    assert http.get("/api/series", params=asked).json()["series"]["1"][""]["loss"]["last"] == [501, 7.25]
    run.writer.finish()


@pytest.mark.parametrize(
    ("address", "status", "says"),
    [
        ("/api/run", 400, "say which run"),
        ("/api/run?run=99", 404, "no run 99"),
        ("/api/run?run=one", 400, "'one'"),
        ("/api/run?run=1e3", 400, "'1e3'"),
        ("/api/series?run=1&name=loss&low=nan", 400, "'nan'"),
        ("/api/series?run=1&name=loss&source=a&source=b", 400, "a source for each name, got 2 for 1"),
        ("/api/series?run=1&name=loss&low=5&high=1", 400, "5 and 1"),
        ("/api/series?" + "run=1&" * 33, 400, "at most 32"),
        ("/api/clipped?run=1&threshold=-1", 400, "-1"),
        ("/api/clipped?run=1&threshold=inf", 400, "'inf'"),
    ],
)
def test_mistakes_are_named(path, address, status, says):
    typical(path)
    answer = client(path).get(address)
    assert answer.status_code == status
    assert says in answer.json()["error"]


def test_files_and_nothing_else(path):
    typical(path)
    http = client(path)
    page = http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name in re.findall(r'(?:href|src)="([^"]+)"', page.text):
        assert http.get(name).status_code == 200, name
    for name in (
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/%2e%2e/app.py",
        "/static//etc/passwd",
        "/static/js/..%5c..%5capp.py",
        "/static/js",
        "/runs.db",
        "/static/vendor/uplot-1.6.32/LICENSE/..",
        "/static/js/main.js%00",
    ):
        assert http.get(name).status_code == 404, name
    assert all(not name.endswith((".py", ".db")) for name in assets())
    assert http.post("/api/runs").status_code == 405


def test_paths_that_no_client_would_send(path):
    with Dashboard(path, port=0) as page:
        for name in (
            "/static/../app.py",
            "/../../../../etc/passwd",
            "//etc/passwd",
            "/static/%2e%2e%2fserve.py",
        ):
            connection = HTTPConnection("127.0.0.1", page.port, timeout=10)
            connection.putrequest("GET", name, skip_host=True)
            connection.putheader("Host", "localhost")
            connection.endheaders()
            assert connection.getresponse().status == 404, name
            connection.close()


def test_every_answer_says_what_a_browser_is_to_refuse(path):
    for address in ("/", "/static/js/main.js", "/api/runs", "/nothing"):
        http = client(path), client(path, token=TOKEN)
        allowed, refused, away = (
            http[0].get(address),
            http[1].get(address),
            http[1].get(f"{address}?token={TOKEN}"),
        )
        assert (refused.status_code, away.status_code) == (401, 303)
        strange = http[0].get(address, headers={"host": "evil.example"})
        for answer in (refused, away, strange):
            for name in HEADERS:
                assert answer.headers[name] == HEADERS[name]
        headers = allowed.headers
        assert headers["content-security-policy"].startswith("default-src 'self'; ")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


# Who may see it.


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:8765", "[::1]:8765", "LOCALHOST"])
def test_own_names(path, host):
    assert client(path).get("/api/runs", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "localhost.evil.example",
        "",
        "[::2]",
        "[::1]evil.com",
        "[::1]:80.evil.com",
        "localhost:evil.com",
        "evil.com[::1]",
        "::1",
        "127.0.0.1:80:evil.com",
        "localhost,evil.com",
        "localhost@evil.com",
    ],
)
def test_names_of_others(path, host):
    for address in ("/", "/api/runs", "/api/events", "/static/js/main.js"):
        answer = client(path).get(address, headers={"host": host})
        assert answer.status_code == 421
        assert "runs" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_token_is_given_once(path, host):
    typical(path)
    for address in ("/", "/api/runs", "/static/js/main.js", "/api/events"):
        http = client(path, token=TOKEN, host=host)
        assert http.get(address).status_code == 401
        assert http.get(address, params={"token": TOKEN[:-1]}).status_code == 401
        assert http.get(address, params={"token": ""}).status_code == 401
        assert http.get(address, headers={"cookie": "clipwise-token=x; ;=;\x01"}).status_code == 401
        assert http.get(address, headers={"authorization": b"Bearer \xe4"}).status_code == 401
    answer = http.get("/", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()  # sent where a link was clicked elsewhere
    assert http.get("/api/runs").json()["runs"][0]["name"] == "lstm"  # the client keeps the cookie
    alone = client(path, token=TOKEN, host=host)
    assert alone.get("/api/runs", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_token_leads_nowhere_else(path):
    http = client(path, token=TOKEN)
    for name in ("//evil.example/", "/%0d%0aSet-Cookie:%20a=b", "/\\evil.example"):
        answer = http.get("http://localhost:8765" + name, params={"token": TOKEN, "run": "1"})
        location = answer.headers["location"]
        assert re.fullmatch(r"/(?![/\\])[^\r\n]*\?run=1", location), location
        assert answer.headers.get_list("set-cookie") == [answer.headers["set-cookie"]]


def test_another_address_demands_a_token(path):
    page = Dashboard(path, host="0.0.0.0", port=0)
    try:
        assert page.token
        assert len(page.token) >= 24
        # No machine can open 0.0.0.0.
        assert page.url == f"http://{socket.gethostname()}:{page.port}/?token={page.token}"
    finally:
        page.stop()
    with pytest.raises(ArgumentError, match="16 to 256"):
        Dashboard(path, host="0.0.0.0", token="short")
    with pytest.raises(ArgumentError, match="others among them"):
        Dashboard(path, token="sixteen letters; and more")


def test_an_address_that_cannot_be_used(path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ArgumentError, match=f"port {port}: "):
            Dashboard(path, port=port)
    with pytest.raises(ArgumentError, match=r"cannot listen on 203\.0\.113\.1"):
        Dashboard(path, host="203.0.113.1", token=TOKEN)
    with pytest.raises(ArgumentError, match="70000"):
        Dashboard(path, port=70000)


# Files that are not what they should be.


def test_a_file_that_comes_later_and_is_replaced(path):
    http = client(path)
    assert http.get("/api/runs").json()["state"]["kind"] == "missing"
    path.touch()
    assert http.get("/api/runs").json()["state"]["kind"] == "empty"
    path.write_text("something of mine, not a database at all" * 100)
    for address in ("/api/runs", "/api/run?run=1", "/api/series?run=1&name=a", "/api/layers?run=1"):
        state = http.get(address).json()["state"]
        assert state["kind"] == "broken"
        assert "runs.db" in state["message"]
    path.unlink()
    typical(path, "first")
    assert [run["name"] for run in http.get("/api/runs").json()["runs"]] == ["first"]
    other = path.with_name("other.db")
    typical(other, "second", count=60)
    os.replace(other, path)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    assert [run["name"] for run in http.get("/api/runs").json()["runs"]] == ["second"]
    found = http.get("/api/series", params={"run": 1, "name": "loss"}).json()["series"]["1"][""]["loss"]
    assert found["count"] == 60


def test_a_folder_and_a_damaged_file(tmp_path):
    state = client(tmp_path).get("/api/runs").json()["state"]
    assert state["kind"] == "broken"
    assert "folder" in state["message"]
    path = tmp_path / "damaged.db"
    typical(path, count=5000)
    content = bytearray(path.read_bytes())
    content[4096:60000] = os.urandom(60000 - 4096)
    path.write_bytes(content)
    http = client(path)
    for address in ("/api/runs", "/api/run?run=1", "/api/series?run=1&name=loss", "/api/layers?run=1"):
        answer = http.get(address)
        assert (answer.status_code, answer.json()["state"]["kind"]) == (200, "broken"), address


def test_the_news(path):
    """The first line comes at once, the next when something was written."""
    with Dashboard(path, port=0) as page, urllib.request.urlopen(page.url + "api/events", timeout=20) as news:
        assert news.headers["content-type"].startswith("text/event-stream")

        def next_change():
            while True:
                line = news.readline().decode().strip()
                if line.startswith("data: "):
                    return int(line[6:])

        first = next_change()
        run = typical(path, finish=False)
        second = next_change()
        assert second > first
        while True:
            with urllib.request.urlopen(page.url + "api/runs", timeout=20) as answer:
                if json.load(answer).get("runs"):
                    break
            next_change()
        run.writer.write([steps(("loss",), [501], [1.0])])
        assert next_change() > second
        run.writer.finish()


def test_hostile_names_are_data(path):
    hostile(path)
    run = client(path).get("/api/run?run=1").json()["run"]
    assert run["name"] == "<img src=x onerror=alert(1)>"
    answer = client(path).get("/api/run?run=1")
    assert answer.headers["content-type"] == "application/json"


def test_an_empty_run(path):
    Writer(path, "u", "nothing yet").finish()
    http = client(path)
    assert http.get("/api/run?run=1").json()["run"]["logged"] == []
    assert http.get("/api/series?run=1&name=loss").json()["series"] == {"1": {"": {}}}
    assert http.get("/api/distribution?run=1").json()["distribution"]["count"] == 0
    assert http.get("/api/layers?run=1").json()["layers"]["names"] == []


# What nobody may hold up.


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX"])
def test_a_request_that_is_never_finished_is_cut_off(path, monkeypatch, begun):
    from clipwise.dashboard.timeouts import TimedProtocol

    monkeypatch.setattr(TimedProtocol, "request_timeout", 0.1)
    with Dashboard(path, port=0) as page, socket.create_connection(("127.0.0.1", page.port), 20) as slow:
        slow.sendall(begun)
        with contextlib.suppress(ConnectionResetError):
            while slow.recv(65536):
                pass


def test_an_answer_that_is_never_read_is_cut_off(path, monkeypatch):
    from clipwise.dashboard.timeouts import TimedProtocol

    monkeypatch.setattr(TimedProtocol, "read_timeout", 0.1)
    request = b"GET /static/vendor/uplot-1.6.32/uPlot.iife.min.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with Dashboard(path, port=0) as page, socket.socket() as idle:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        idle.settimeout(20)
        idle.connect(("127.0.0.1", page.port))
        idle.sendall(request * 300)
        got = len(idle.recv(1))
        until(lambda: not page._server.server_state.connections)
        with contextlib.suppress(ConnectionResetError):
            while part := idle.recv(1 << 20):
                got += len(part)
    assert got < 250 * 51_000


def until(there):
    end = time.monotonic() + 20
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_long_questions_do_not_hold_up_the_list_of_runs(path, monkeypatch):
    typical(path)
    asked, go_on = threading.Semaphore(0), threading.Event()

    def slow(self, *arguments, **options):
        asked.release()
        go_on.wait(60)
        return real(self, *arguments, **options)

    real = Store.series
    monkeypatch.setattr(Store, "series", slow)
    with Dashboard(path, port=0) as page:
        threads = [
            threading.Thread(
                target=lambda: urllib.request.urlopen(page.url + "api/series?run=1&name=loss").close()
            )
            for _ in range(50)
        ]
        try:
            for thread in threads:
                thread.start()
            assert asked.acquire(timeout=60)
            for address in ("api/runs", "api/run?run=1"):
                with urllib.request.urlopen(page.url + address, timeout=30) as answer:
                    assert json.load(answer)["state"]["kind"] == "ready"
        finally:
            go_on.set()
        for thread in threads:
            thread.join()


# A token that no other user of the machine sees.


@pytest.mark.skipif(os.name != "posix", reason="no modes of files")
def test_a_token_in_a_file(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    with pytest.raises(ArgumentError, match=r"other users can read the token in .*: chmod 600"):
        token_in(file)
    file.chmod(0o600)
    assert token_in(file) == TOKEN


def test_a_browser_is_not_told_the_token_in_its_command_line():
    with unseen(f"http://localhost:1/?token={TOKEN}") as address:
        file = Path(url2pathname(urlsplit(address).path))
        assert TOKEN not in address
        assert f"url=http://localhost:1/?token={TOKEN}" in file.read_text()
        if os.name == "posix":
            assert file.stat().st_mode & 0o077 == 0
            assert file.parent.stat().st_mode & 0o077 == 0
    assert not file.exists()


# What is changed, and by whom.


def ask(http, name, asked, **headers):
    sent = {"origin": "http://localhost:8765"} | {key.replace("_", "-"): one for key, one in headers.items()}
    return http.post(f"/api/{name}", json=asked, headers={k: v for k, v in sent.items() if v is not None})


def test_a_run_is_renamed_noted_and_deleted(path):
    typical(path, "one")
    run = typical(path, "two", count=60)
    http = client(path)
    assert ask(http, "rename", {"run": run.id, "name": HOSTILE}).json() == {}
    assert ask(http, "annotate", {"run": run.id, "notes": "the <b>second</b>"}).json() == {}
    newest = http.get("/api/runs").json()["runs"][0]
    assert (newest["name"], newest["notes"], newest["loss"]) == (HOSTILE, "the <b>second</b>", run.loss[-1])
    assert newest["alerts"] == {"critical": 1, "warning": 1}
    third = typical(path, "three", count=60)
    assert ask(http, "delete", {"runs": [run.id, 9]}).status_code == 409  # all of them, or none
    assert len(http.get("/api/runs").json()["runs"]) == 3
    assert ask(http, "delete", {"runs": [run.id, third.id]}).json() == {}
    assert [one["name"] for one in http.get("/api/runs").json()["runs"]] == ["one"]
    for name, asked, status, says in (
        ("delete", {"runs": [run.id]}, 409, "no run with the number 2"),
        ("delete", {"run": 1}, 400, "got None"),
        ("delete", {"runs": []}, 400, "got []"),
        ("delete", {"runs": [1, True]}, 400, "got True"),
        ("rename", {"run": 1, "name": " "}, 400, "must be a string that is not empty, got ' '"),
        ("annotate", {"run": 1, "notes": 5}, 400, "got 5"),
        ("annotate", {"run": 1, "notes": "x" * 70000}, 400, "65,536 bytes"),
        ("delete", [1], 400, "a JSON object"),
    ):
        answer = ask(http, name, asked)
        assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text
    going = typical(path, "goes on", finish=False)
    assert "is running" in ask(http, "delete", {"runs": [1, going.id]}).json()["error"]
    going.writer.finish()


def test_nobody_else_changes_anything(path):
    """A page of another site can send a form, or text, in the name of whoever looks at it."""
    run = typical(path).id
    http, asked = client(path), {"runs": [run]}
    for headers in (
        {"origin": None},
        {"origin": "null"},
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:9999"},
        {"origin": "http://localhost:8765.evil.example"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
    ):
        assert ask(http, "delete", asked, **headers).status_code == 403, headers
    assert http.get("/api/delete", params=asked).status_code == 405
    assert ask(client(path, token=TOKEN), "delete", asked).status_code == 401
    assert http.post(f"/api/delete?token={TOKEN}", json=asked).status_code == 403
    assert ask(client(path, token=TOKEN), "delete", asked, authorization=f"Bearer {TOKEN}").status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone says whose sockets these are")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_another_user_of_the_machine_changes_nothing(path, monkeypatch, host):
    run = typical(path).id
    try:
        page = Dashboard(path, host=host, port=0).start()
    except ArgumentError:
        pytest.skip("no IPv6 here")
    try:
        sent = {"Origin": page.url[:-1], "Content-Type": "application/json"}
        change = urllib.request.Request(
            page.url + "api/annotate", json.dumps({"run": run, "notes": "x"}).encode(), sent
        )
        with urllib.request.urlopen(change, timeout=20) as answer:
            assert answer.status == 200
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
        with pytest.raises(HTTPError, match="403"):
            urllib.request.urlopen(change, timeout=20)
    finally:
        page.stop()


# How a run came out.


def test_a_run_of_nan_is_no_finished_one(path):
    """Also where it was recorded as finished."""
    step = np.arange(1, 41)
    losses = np.where(step > 1, np.nan, 2.0)
    writer = Writer(path, "u", "broken")
    writer.write([steps(("clipwise/norm", "loss"), step, np.where(step > 1, np.nan, 1.0), losses)])
    writer.finish()
    typical(path, "sound")
    http = client(path)
    sound, broken = http.get("/api/runs").json()["runs"]
    assert [(one["name"], one["status"], one["loss"]) for one in (sound, broken)] == [
        ("sound", "finished", sound["loss"]),
        ("broken", "diverged", "nan"),
    ]
    run = http.get("/api/run", params={"run": writer.run}).json()["run"]
    assert run["status"] == "diverged"
    assert "broke down at step 2" in run["note"]
    found = http.get("/api/advice", params={"run": writer.run}).json()["advice"]
    assert "broke down at step 2" in found["broken"]
    with Store(path) as store:
        assert found["suggestion"] == suggest_run(store, "broken").to_dict()
    assert http.get("/api/advice", params={"run": 2, "source": "none"}).json()["advice"]["suggestion"] is None
