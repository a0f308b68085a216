"""Notifications: delivered for real, by Apprise, to a server on this machine."""

import json
import queue
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clipwise.errors import ArgumentError
from clipwise.monitor import MonitorWarning
from clipwise.monitor.notify import WAITING, Notifier
from clipwise.monitor.store import Alert

pytest.importorskip("apprise")

SECRET = "s3cr3t-t0k3n"
ALERT = Alert(
    "loss_spike", "warning", 7, "The loss is 9 at step 7.", "It may not come back.", "Clip lower.", 2, 5.0
)


def send(notifier, times, close=False):
    for _ in range(times):
        notifier.send(ALERT)
    if close:
        notifier.close()


class Server:
    """Takes what is posted; answers with ``status`` once ``gate`` is open."""

    def __init__(self):
        self.received, self.gate, self.status = queue.Queue(), threading.Event(), 200
        self.gate.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.gate.wait(30)
                outer.received.put((self.path, json.loads(body)))
                self.send_response(outer.status)
                self.end_headers()

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, path="hook"):
        return f"json://127.0.0.1:{self.port}/{path}"

    def close(self):
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def test_an_alert_arrives_at_every_address(server):
    notifier = Notifier([server.url("one"), server.url("two")], "night")
    notifier.send(ALERT)
    notifier.close()
    found = dict(server.received.get_nowait() for _ in range(2))
    assert set(found) == {"/one", "/two"}
    for body in found.values():
        assert body["title"] == "night: loss spike (warning)"
        assert body["message"] == "The loss is 9 at step 7.\n\nIt may not come back.\n\nClip lower."
        assert body["type"] == "warning"
    assert server.received.empty()


@pytest.mark.parametrize(
    ("level", "kind"), [("info", "info"), ("warning", "warning"), ("critical", "failure")]
)
def test_levels(server, level, kind):
    notifier = Notifier(server.url(), "run")  # one address needs no list
    notifier.send(Alert("stalled", level, 1, "a.", "b.", "c."))
    notifier.close()
    assert server.received.get_nowait()[1]["type"] == kind


def test_in_the_order_in_which_they_were_said(server):
    notifier = Notifier([server.url()], "run")
    for step in range(5):
        notifier.send(Alert("stalled", "info", step, f"{step}", "b.", "c."))
    notifier.close()
    assert [server.received.get_nowait()[1]["message"][0] for _ in range(5)] == list("01234")


def test_sending_does_not_wait(server, monkeypatch):
    monkeypatch.setattr("clipwise.monitor.notify.PATIENCE", 0.2)
    server.gate.clear()
    notifier = Notifier([server.url()], "run")
    with pytest.warns(MonitorWarning, match="more than 100 notifications wait") as said:
        send(notifier, WAITING + 10)
    assert len(said) == 1
    assert server.received.empty()
    notifier.close()  # nor does the end, for longer than its patience
    assert server.received.empty()
    notifier.send(ALERT)  # after the end: nothing
    notifier.close()


def test_what_cannot_be_delivered_is_a_warning_once_and_says_no_secret(server):
    server.status = 500
    notifier = Notifier([server.url(SECRET)], "run")
    with pytest.warns(MonitorWarning) as said:
        send(notifier, 2, close=True)
    [sentence] = [str(warning.message) for warning in said]
    assert "address 1 of 1 (json://...) could not be notified" in sentence
    assert SECRET not in sentence
    assert server.received.qsize() == 2


def test_one_that_fails_keeps_nothing_from_the_others(server):
    gone = Server()
    gone.close()
    notifier = Notifier([gone.url(), server.url()], "run")
    with pytest.warns(MonitorWarning, match="address 1 of 2"):
        send(notifier, 1, close=True)
    assert server.received.qsize() == 1


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"jsno://{SECRET}@host", "jsno://..."),
        (f"slack://{SECRET}", "slack://..."),
        (SECRET, "no service before ://"),
        ("", "no service before ://"),
        (3, "int"),
        (None, "NoneType"),
    ],
)
def test_a_bad_address_is_refused_at_once_and_not_repeated(server, url, shown):
    with pytest.raises(ArgumentError) as caught:
        Notifier([server.url(), url], "run")
    assert f"address 2 of 2 ({shown}) is not an address that Apprise knows" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_nobody_to_tell():
    notifier = Notifier([], "run")
    notifier.send(ALERT)
    notifier.close()


def test_apprise_is_loaded_only_for_addresses_and_its_absence_says_what_to_install():
    code = """if True:
        import sys
        sys.modules["apprise"] = None
        from clipwise.monitor.notify import Notifier
        Notifier([], "run").close()
        try:
            Notifier(["json://127.0.0.1"], "run")
        except ModuleNotFoundError as error:
            print(error)
    """
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "clipwise[notify]"' in found.stdout
