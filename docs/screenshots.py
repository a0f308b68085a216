"""Photographs the live page: `python -m docs.screenshots` writes docs/images/dashboard*.png.

An LSTM learns characters three times, recorded by `Monitor`; `Dashboard` serves the recording, and Chromium
shows it. Without Chromium or playwright the pictures stay as they are.
"""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tests.chromium import FLAGS, program
from torch import nn

import clipwise
from clipwise.dashboard import Dashboard
from clipwise.monitor.store import Store

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
CLIPS = {
    "no clipping": clipwise.Clip(float("inf")),
    "norm at 1": clipwise.clip_by_global_norm(1.0),
    "auto": clipwise.auto(),
}
STEPS, BATCH, LENGTH, WIDTH, RATE = 300, 16, 32, 64, 20.0


class Characters(nn.Module):
    """Which character comes next."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, symbols)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.lstm(self.symbols(text))[0])
        return scores


def train(recording: Path, name: str, clip: clipwise.AnyClip) -> None:
    """One run: SGD at a rate that is too high without a clip."""
    torch.manual_seed(0)
    letters = (ROOT / "LICENSE").read_text(encoding="utf-8")
    symbols = sorted(set(letters))
    text = torch.tensor([symbols.index(letter) for letter in letters])
    model = Characters(len(symbols))
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    facts = {"sweep": "LSTM, SGD at 20", "learning rate": RATE, "batch": BATCH}
    with clipwise.Monitor(recording, run=name, facts=facts) as monitor:
        clipper = monitor.attach(clipwise.torch.attach(optimizer, clip, model=model, nonfinite="propagate"))
        for _ in range(STEPS):
            starts = torch.randint(len(text) - LENGTH - 1, (BATCH,))
            batch = torch.stack([text[start : start + LENGTH + 1] for start in starts], dim=1)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(batch[:-1]).flatten(0, 1), batch[1:].flatten())
            loss.backward()
            clipper.observe(loss)
            optimizer.step()
            monitor.log(loss=loss)


@contextlib.contextmanager
def page(recording: Path, **context: Any) -> Iterator[Any]:
    """The live page in Chromium, three minutes after the last step."""
    from playwright.sync_api import sync_playwright

    with Store(recording) as store:
        last = max(run.seen for run in store.runs())
    with Dashboard(recording, port=0) as served, sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program(), args=FLAGS)
        tab = browser.new_context(**{"color_scheme": "light"} | context).new_page()
        tab.clock.set_fixed_time(last + 180.0)
        tab.goto(served.url)
        tab.wait_for_function("step => Number(document.body.dataset.step) >= step", arg=STEPS)
        yield tab
        browser.close()


def keep(name: str, picture: bytes) -> None:
    """As a PNG of 128 colours, which is a third of the size."""
    found = Image.open(io.BytesIO(picture)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    found.save(IMAGES / f"{name}.png", optimize=True)


def photograph(recording: Path) -> None:
    """The whole page, some of its parts, and the page as a telephone shows it at night."""
    with page(recording, viewport={"width": 1280, "height": 900}) as tab:
        tab.click("[aria-label='Overlay no clipping on the charts']")
        keep("dashboard", settled(tab).screenshot(full_page=True))
        tab.click("a:has-text('no clipping')")
        tab.wait_for_selector("#panel-alerts >> text=loss_spike")
        for part in ("alerts", "distribution"):
            keep(f"dashboard-{part}", settled(tab).locator(f"#panel-{part}").screenshot())
        keep("dashboard-runs", tab.locator("nav details").screenshot())
    with page(recording, viewport={"width": 390, "height": 844}, color_scheme="dark") as tab:
        keep("dashboard-narrow", settled(tab).screenshot())


def settled(tab: Any) -> Any:
    """The page, once what was asked for is drawn."""
    tab.wait_for_load_state()
    tab.wait_for_timeout(1000)
    return tab


def main() -> None:
    try:
        import playwright  # noqa: F401
    except ModuleNotFoundError:
        print("docs/images: the screenshots stay as they are, playwright is not installed")
        return
    if program() is None:
        print("docs/images: the screenshots stay as they are, there is no Chromium (CLIPWISE_CHROMIUM)")
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", clipwise.monitor.MonitorWarning)  # the page shows the alerts
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "clipwise.db"
        for name, clip in CLIPS.items():
            train(recording, name, clip)
        photograph(recording)


if __name__ == "__main__":
    main()
