"""The live page in Chromium: each view, the keyboard, both themes, a narrow window, news, names that lie."""

import re

import numpy as np
import pytest

pytest.importorskip("starlette")

from clipwise.dashboard import Dashboard
from clipwise.monitor.store import Rows, Store, Writer
from clipwise.monitor.suggest import suggest_run

from .databases import HOSTILE, by_parts, clipped_weights, held_by_turns, hostile, steps, two_sources, typical

# How many colours a canvas shows: a blank one has one, and a few lines have several.
COLOURS = """
canvas => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return new Set(new Uint32Array(data.buffer)).size;
}
"""
# Rows of pixels in which a chart's own blue is seen, from its top, as shares of its height.
BLUE_TOP = """
canvas => {
  const { width, height } = canvas;
  const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  for (let i = 0; i < data.length; i += 4)
    if (data[i] < 60 && data[i + 1] > 80 && data[i + 1] < 150 && data[i + 2] > 150 && data[i + 3] > 200)
      return Math.floor(i / 4 / width) / height;
  return 1;
}
"""
PANELS = ("loss", "norm", "fraction", "direction", "layers", "distribution")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.db"


@pytest.fixture
def serve(path):
    with Dashboard(path, port=0) as page:
        yield page


def until(tab, expression, argument=None):
    tab.wait_for_function(expression, arg=argument)


def ready(tab, step=1):
    until(tab, "step => Number(document.body.dataset.step) >= step", step)


def filter_by(tab, text):
    """Of few runs the filter is hidden."""
    tab.eval_on_selector(
        "#filter", "(node, text) => { node.value = text; node.dispatchEvent(new Event('input')); }", text
    )


def colours(tab, panel):
    return tab.eval_on_selector(f"#panel-{panel} canvas:not(.heat-legend)", COLOURS)


def reading(tab, panel):
    return tab.inner_text(f"#panel-{panel} .readout")


def test_every_view_draws(path, serve, look):
    run = typical(path)
    tab = look(serve.url)
    ready(tab, 500)
    for panel in PANELS:
        assert colours(tab, panel) > 8, panel
    assert tab.inner_text("h1") == "lstm"
    assert "clip_by_global_norm(1.0)" in tab.inner_text(".facts")
    assert "threshold 1" in reading(tab, "norm")
    assert "NaN × 1" in reading(tab, "norm")
    assert "Inf × 1" in reading(tab, "norm")
    assert f"loss {run.loss[-1]:.4g}"[:8] in reading(tab, "loss")
    assert "4 parameters, 50 recorded steps" in reading(tab, "layers")
    alerts = tab.inner_text("#panel-alerts")
    for text in ("It jumped to 60.", "One step undoes many.", "Try 0.9.", "step 250", "gradient_spike"):
        assert text in alerts
    tab.click("text=Command and facts")
    assert "python train.py" in tab.inner_text(".more")


def test_the_slider_counts_as_numpy_does(path, serve, look):
    run = typical(path)
    finite = run.norm[np.isfinite(run.norm)]
    tab = look(serve.url)
    ready(tab, 500)

    def said():
        return int(re.search(r"clipped ([\d,]+) of 498 steps", tab.inner_text("#threshold-said")).group(1))

    assert said() == int((finite > 1.0).sum())  # at first, the run's own threshold
    answer = tab.evaluate("fetch('/api/distribution?run=1').then(answer => answer.json())")["distribution"]
    tab.focus("#threshold-slider")
    for _ in range(3):
        before = tab.evaluate("document.querySelector('#threshold-slider').valueAsNumber")
        tab.keyboard.press("PageUp")
        at = tab.evaluate("document.querySelector('#threshold-slider').valueAsNumber")
        assert at > before
        assert said() == int((finite > answer["thresholds"][int(at)]).sum())
    tab.fill("#threshold-field", "0.7")
    tab.press("#threshold-field", "Enter")
    wanted = int((finite > 0.7).sum())
    until(
        tab, "n => document.querySelector('#threshold-said').textContent.includes(`clipped ${n} of`)", wanted
    )
    tab.fill("#threshold-field", "much")
    tab.press("#threshold-field", "Enter")
    assert "is not a threshold" in tab.inner_text("#threshold-said")
    tab.click("[data-mark='95th percentile']")
    assert said() == int((finite > np.percentile(finite, 95)).sum())


def test_news_are_shown(path, serve, look):
    run = typical(path, finish=False)
    tab = look(serve.url)
    ready(tab, 500)
    assert "running" in tab.inner_text(".facts")
    run.writer.write(
        [
            steps(("time", "clipwise/norm", "clipwise/threshold"), [501], [0], [77.25], [1.0]),
            steps(("loss",), [501], [12.5]),
            Rows("layers", ("new.weight",), np.array([[501, 3.0]])),
        ]
    )
    ready(tab, 501)
    assert "norm 77.25" in reading(tab, "norm")
    assert "loss 12.5" in reading(tab, "loss")
    until(tab, "() => document.querySelector('#panel-layers .readout').textContent.includes('5 parameters')")
    run.writer.finish("failed", "RuntimeError: out of luck")
    until(tab, "() => document.querySelector('.facts').textContent.includes('failed')")
    assert tab.inner_text(".run-note") == "RuntimeError: out of luck"
    other = Writer(path, "u2", "a new run")
    until(tab, "() => document.querySelector('.run-list').textContent.includes('a new run')")
    assert tab.inner_text("h1") == "lstm"  # nobody is torn away from what they look at
    other.finish()


def test_a_million_steps_and_one_spike(path, serve, look):
    rng = np.random.default_rng(0)
    step = np.arange(1, 1_000_001)
    norm = rng.uniform(0.4, 0.6, len(step))
    writer = Writer(path, "u", "long")
    for part in np.array_split(np.arange(len(step)), 50):
        writer.write(
            [steps(("clipwise/norm", "clipwise/threshold"), step[part], norm[part], np.ones(len(part)))]
        )
    tab = look(serve.url)
    ready(tab, 1_000_000)
    flat = tab.eval_on_selector("#panel-norm canvas", BLUE_TOP)
    norm[654_320] = 1000.0
    writer.write([steps(("clipwise/norm",), [654_321], [1000.0])])
    writer.finish()
    # The second value of the step, the spike, reaches the top of the chart.
    until(tab, f"top => ({BLUE_TOP})(document.querySelector('#panel-norm canvas')) < top", min(flat, 0.2))
    tab.evaluate("location.hash = '#run=1&from=654300&to=654340'")
    until(tab, "() => document.querySelector('#all-steps')?.textContent.includes('654,300 to 654,340')")
    asked = tab.evaluate(
        "fetch('/api/series?run=1&name=clipwise/norm&low=654300&high=654340').then(answer => answer.json())"
    )
    assert max(asked["series"]["1"][""]["clipwise/norm"]["line"]["y"]) == 1000.0


def test_zoom_and_back(path, serve, look):
    run = typical(path)
    tab = look(serve.url)
    ready(tab, 500)
    box = tab.locator("#panel-loss .u-over").bounding_box()
    tab.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 60)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 70, steps=4)
    tab.mouse.up()
    until(tab, "() => location.hash.includes('from=') && document.querySelector('#all-steps')")
    low, high = (
        float(tab.evaluate(f"new URLSearchParams(location.hash.slice(1)).get('{k}')")) for k in ("from", "to")
    )
    assert abs(low - 100.8) < 3
    assert abs(high - 200.6) < 3
    tab.mouse.move(0, 0)
    # Without the pointer the last step that is shown is read: its loss, and the mean of the 20 up to it.
    last = int(high)
    until(
        tab, "n => document.querySelector('#panel-loss .readout').textContent.startsWith(`step ${n}`)", last
    )
    said = re.findall(r"(?:loss|mean) ([\d.]+)", reading(tab, "loss"))
    assert [float(one) for one in said] == pytest.approx(
        [run.loss[last - 1], run.loss[last - 20 : last].mean()], rel=1e-3
    )
    until(tab, "() => document.querySelector('#threshold-said').textContent.includes('of 9')")
    assert "of the steps shown" in tab.inner_text("#panel-distribution")
    tab.locator("#panel-norm .u-over").dblclick()
    until(tab, "() => !location.hash.includes('from=') && !document.querySelector('#all-steps')")
    tab.click("text=step 250")  # of an alert
    until(tab, "() => location.hash.includes('from=230') && location.hash.includes('to=270')")


def test_several_runs_over_one_another(path, serve, look):
    first, second = typical(path, "first", seed=1), typical(path, "second", seed=2, count=300)
    tab = look(f"{serve.url}#run={first.id}")
    ready(tab, 500)
    tab.check("[aria-label='Overlay second on the charts']")
    until(tab, "() => document.querySelector('#panel-norm .readout').textContent.includes('second')")
    assert f"with={second.id}" in tab.evaluate("location.hash")
    assert "first" in reading(tab, "norm")
    assert "step 500" in reading(tab, "loss")
    assert f"second {second.loss[-20:].mean():.4g} (step 300)" in reading(tab, "loss")
    tab.uncheck("[aria-label='Overlay second on the charts']")
    until(tab, "() => !document.querySelector('#panel-norm .readout').textContent.includes('second')")


def test_several_sources(path, serve, look):
    two_sources(path)
    tab = look(serve.url)
    ready(tab, 100)
    assert "norm 10" in reading(tab, "norm")
    assert "generator/loss 100" in reading(tab, "loss")
    assert "1 parameter, 10 recorded steps" in reading(tab, "layers")
    tab.select_option("#source", "critic")
    until(tab, "() => document.querySelector('#panel-norm .readout').textContent.includes('norm 100')")
    assert "threshold" not in reading(tab, "norm")  # Inf: nothing was clipped
    tab.select_option("#logged", "critic/loss")
    until(tab, "() => document.querySelector('#panel-loss .readout').textContent.includes('critic/loss 200')")


def test_each_part_of_by_name_with_its_own_threshold(path, serve, look):
    by_parts(path)
    tab = look(serve.url)
    ready(tab, 100)
    said = reading(tab, "norm").split("\n")
    assert said == ["step 100", "lstm.* 4", "lstm.*: threshold 8", "head.* 3", "head.*: threshold 0.5"]
    assert reading(tab, "fraction").split("\n") == ["step 100", "lstm.* 0", "head.* 0.5"]
    assert tab.locator("[data-mark='threshold']").count() == 0  # of no part is it one for the whole norm
    assert tab.locator("#source option").all_inner_texts() == ["all parts", "part lstm.*", "part head.*"]
    tab.select_option("#source", "by_name/head.*")
    until(tab, "() => document.querySelector('#panel-norm .readout').textContent.includes('norm 3')")
    assert "threshold 0.5" in reading(tab, "norm")
    assert "clipped 100 of 100 steps" in tab.inner_text("#threshold-said")


def test_what_held_the_threshold(path, serve, look):
    held_by_turns(path)
    typical(path, "before")  # recorded by one that did not say it
    tab = look(f"{serve.url}#run=1")
    ready(tab, 100)
    legend = "#panel-norm .held-legend"
    assert tab.inner_text(legend).split("\n") == [
        "threshold held by (steps shown)", "loss 13 %", "length 50 %", "history 37 %",
    ]  # fmt: skip
    assert "length 50 %" in tab.get_attribute(".held-band", "aria-label")
    assert colours(tab, "norm .held") == 3
    box = tab.locator(".held-band").bounding_box()
    tab.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 5)
    until(tab, f"() => document.querySelector('{legend}').textContent.includes('length 100 %')")
    assert re.search(r"\(step 2\d\)", tab.inner_text(legend))
    tab.goto(f"{serve.url}#run=2")
    ready(tab, 500)
    until(tab, "() => document.querySelector('#panel-norm .held').hidden")


def test_weights_at_the_bound_and_what_is_logged_beside_a_clipper(path, serve, look):
    clipped_weights(path)
    tab = look(serve.url)
    ready(tab, 200)
    assert "at the bound" not in reading(tab, "fraction")
    assert "clipwise/update_ratio 0.001" in reading(tab, "loss")
    tab.select_option("#source", "weights")
    until(
        tab,
        "() => document.querySelector('#panel-fraction .readout').textContent.includes('at the bound 0.625')",
    )
    assert "clipped 0.8" in reading(tab, "fraction")


def test_the_keyboard(path, serve, look):
    typical(path, "first")
    run = typical(path, "second", count=400)
    tab = look(serve.url)
    ready(tab, 400)
    press = tab.keyboard.press
    assert tab.inner_text("h1") == "second"
    press("j")
    until(tab, "() => document.querySelector('h1').textContent === 'first'")
    press("k")
    until(tab, "() => document.querySelector('h1').textContent === 'second'")
    press("+")
    until(tab, "() => document.querySelector('#all-steps')?.textContent.includes('101 to 300')")
    press("ArrowRight")
    until(tab, "() => document.querySelector('#all-steps')?.textContent.includes('151 to 350')")
    press("0")
    until(tab, "() => !document.querySelector('#all-steps')")
    assert "log scale" not in tab.inner_text("#panel-loss header")
    press("l")
    assert "log scale" in tab.inner_text("#panel-loss header")
    press("g")
    assert "log scale" not in tab.inner_text("#panel-norm header")
    press("t")
    assert tab.evaluate("document.activeElement.id") == "threshold-slider"
    press("Escape")
    press("?")
    assert tab.is_visible("#help")
    assert "next run" in tab.inner_text("#help")
    press("Escape")
    assert not tab.is_visible("#help")
    tab.focus("#panel-layers canvas[tabindex]")
    press("ArrowLeft")
    assert "lstm.weight_ih_l0" in reading(tab, "layers")
    assert "step 390" in reading(tab, "layers")
    # Of three digits; the cell holds it as one of 65,533 steps of a logarithmic scale.
    assert float(tab.inner_text("#panel-layers .readout b")) == pytest.approx(run.layers[38, 1], rel=6e-3)
    press("ArrowDown")
    assert "lstm.weight_hh_l0" in reading(tab, "layers")
    press("Tab")
    assert tab.evaluate("document.activeElement.closest('#panel-distribution') !== null")


def luminance(colour):
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


TEXTS = """
() => [...document.querySelectorAll("#app *")].filter(node => node.offsetParent && [...node.childNodes].some(
  child => child.nodeType === 3 && child.textContent.trim())).map(node => {
    let behind = node;
    while (behind && getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)")
      behind = behind.parentElement;
    return [node.className + ": " + node.textContent.slice(0, 30), getComputedStyle(node).color,
            getComputedStyle(behind ?? document.body).backgroundColor];
  })
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_themes_and_contrast(path, serve, look, scheme):
    typical(path)
    tab = look(serve.url, color_scheme=scheme)
    ready(tab, 500)
    paper = luminance(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (paper > 0.8) == (scheme == "light")
    for name, text, behind in tab.evaluate(TEXTS):
        pair = sorted([luminance(text), luminance(behind)])
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (name, text, behind)
    before = tab.eval_on_selector("#panel-norm canvas", "canvas => canvas.toDataURL()")
    tab.emulate_media(color_scheme="dark" if scheme == "light" else "light")
    until(tab, "old => document.querySelector('#panel-norm canvas').toDataURL() !== old", before)


def test_a_narrow_window(path, serve, look):
    typical(path, "a_name_without_any_place_to_break_" * 4)
    hostile(path)
    for run in (1, 2):
        tab = look(f"{serve.url}#run={run}", viewport={"width": 360, "height": 740})
        ready(tab, 30)
        assert tab.evaluate("document.documentElement.scrollWidth") == 360
        assert not tab.is_visible(".runs")
        tab.click("summary:has-text('Runs')")
        assert tab.is_visible(".runs")
        assert tab.evaluate("document.documentElement.scrollWidth") == 360


def test_names_that_lie_are_text(path, serve, look):
    hostile(path)
    tab = look(serve.url)
    ready(tab, 30)
    assert tab.inner_text("h1") == HOSTILE
    assert "<b>loss</b> 30" in reading(tab, "loss")
    assert "<img src=x onerror=alert(5)>" in tab.inner_text("#panel-alerts")
    tab.focus("#panel-layers canvas[tabindex]")
    tab.keyboard.press("ArrowUp")
    assert "<svg onload=alert(4)>" in reading(tab, "layers")
    tab.select_option("#logged", "</script><script>alert(3)</script>")
    tab.click("text=Command and facts")
    assert tab.evaluate("document.querySelectorAll('#app img, #app svg, #app script, #app u').length") == 0
    assert tab.evaluate("document.querySelectorAll('[onerror], [onload], a[href^=javascript]').length") == 0


def test_nothing_yet_then_broken_then_a_run(path, serve, look):
    tab = look(serve.url)
    assert tab.inner_text("#state h1") == "Nothing is recorded yet"
    assert "clipwise observe -- python train.py" in tab.inner_text("#state")
    path.write_bytes(b"")
    until(tab, "() => document.querySelector('#state h1').textContent === 'No run is recorded yet'")
    path.write_text("no database" * 999)
    until(tab, "() => document.querySelector('#state h1').textContent === 'This file cannot be shown'")
    assert "runs.db" in tab.inner_text("#state")
    assert not tab.is_visible("main")
    path.unlink()
    typical(path)
    ready(tab, 500)
    assert not tab.is_visible("#state")
    assert tab.inner_text("h1 >> visible=true") == "lstm"


def test_a_run_with_nothing_in_it(path, serve, look):
    Writer(path, "u", "bare").finish()
    tab = look(serve.url)
    until(tab, "() => document.querySelector('main h1')?.textContent === 'bare'")
    for panel, text in (
        ("loss", "monitor.log(loss=loss)"),
        ("layers", "every tenth step"),
        ("distribution", "No norms"),
        ("alerts", "No rule"),
    ):
        until(
            tab,
            "([id, text]) => document.getElementById(id).innerText.includes(text)",
            [f"panel-{panel}", text],
        )


def test_an_address_of_a_run_that_is_not_there(path, serve, look):
    typical(path)
    tab = look(f"{serve.url}#run=99&with=98,1&source=none&name=none&rank=7&from=5&to=1")
    ready(tab, 500)
    assert tab.inner_text("h1") == "lstm"
    assert "loss" in reading(tab, "loss")


def test_with_a_token(path, look):
    typical(path)
    with Dashboard(path, port=0, token="sixteen-letters-and-more") as page:
        tab = look(f"{page.url}#run=1")
        ready(tab, 500)
        assert "token" not in tab.evaluate("location.href")
        assert tab.evaluate("document.cookie") == ""  # no script reads it
        tab.close()  # before the server goes


def test_the_server_goes_and_comes_back(path, look, browser):
    typical(path)
    first = Dashboard(path, port=0).start()
    tab = browser.new_context().new_page()
    tab.goto(first.url)
    ready(tab, 500)
    first.stop()
    tab.wait_for_selector(".gone", state="visible")
    with Dashboard(path, port=first.port):
        tab.wait_for_selector(".gone", state="hidden")
    tab.context.close()


def sweep(path, count=8):
    """Runs whose long names differ in the middle; each has a lower loss than the one before, the last NaN."""
    step = np.arange(1, 61)
    for place in range(count):
        name = f"transformer_wikitext_width512_layers8_heads8_lr{place}e-3_decay0.1_seed0_clip_by_global_norm"
        writer = Writer(path, f"uid-{place}", name, clip="clip_by_norm(2)", facts={"sweep": "rates"})
        loss = np.full(60, np.nan if place == count - 1 else 9.0 - place)
        writer.write([steps(("clipwise/norm", "loss"), step, np.ones(60), loss)])
        writer.finish()


def listed(tab):
    return tab.eval_on_selector_all(".runs .run-name", "nodes => nodes.map(node => node.textContent)")


def test_the_list_of_runs(path, serve, look):
    sweep(path)
    typical(path, "lstm")
    tab = look(serve.url)
    ready(tab, 500)
    names = listed(tab)
    assert names[0] == "lstm"
    assert [re.search(r"lr(\d)e-3", name).group(1) for name in names[1:]] == list("76543210")
    assert tab.eval_on_selector_all(".runs .group", "nodes => nodes.map(node => node.textContent)") == [
        "no sweep (1)",
        "rates (8)",
    ]
    entry = tab.inner_text(".runs li:has-text('lstm')")
    for text in ("2 alerts", "clip_by_global_norm(1.0)", "loss 1.9"):
        assert text in entry
    assert "diverged" in tab.inner_text(".runs li:has-text('lr7e-3')")
    assert "loss NaN" in tab.inner_text(".runs li:has-text('lr7e-3')")
    tab.select_option("#runs-group", "")
    tab.select_option("#runs-order", "loss")
    rates = [re.search(r"lr(\d)|lstm", name).group(0) for name in listed(tab)]
    assert rates == ["lstm", "lr6", "lr5", "lr4", "lr3", "lr2", "lr1", "lr0", "lr7"]
    tab.fill("#filter", "by_norm(2)")
    assert len(listed(tab)) == 8
    tab.fill("#filter", "diverged")
    assert len(listed(tab)) == 1
    tab.fill("#filter", "")
    # The run that is looked at keeps its box, in the colour of its lines.
    box = tab.locator("[aria-label='Overlay lstm on the charts']")
    box.click(force=True)
    assert box.is_checked()
    assert not box.evaluate("node => node.disabled")
    assert box.evaluate("node => getComputedStyle(node).accentColor") == "rgb(0, 114, 178)"


def test_a_run_is_renamed_noted_and_deleted(path, serve, look):
    typical(path, "first", count=60)
    typical(path, "second", count=70)
    tab = look(serve.url)
    ready(tab, 70)
    tab.click("[aria-label='Name, notes, delete: second']")
    tab.fill("#edit-name", " ")
    tab.keyboard.press("Enter")
    until(tab, "() => document.querySelector('#edit .bad').textContent.includes('needs a name')")
    tab.fill("#edit-name", HOSTILE)
    tab.fill("#edit-notes", "<b>one</b>\ntwo")
    tab.click("#edit >> text=Save")
    until(tab, "name => document.querySelector('h1').textContent === name", HOSTILE)
    until(tab, "() => document.querySelector('.run-notes').textContent === '<b>one</b>\\ntwo'")
    tab.click(".run-head >> text=Name, notes, delete")
    tab.click("#edit-delete")
    tab.click("#edit >> text=Keep it")
    assert len(listed(tab)) == 2
    tab.click("#edit-delete")
    assert HOSTILE in tab.inner_text("#edit .sure")
    tab.click("#edit >> text=Delete for good")
    until(tab, "() => document.querySelector('h1').textContent === 'first'")
    assert listed(tab) == ["first"]


def test_several_runs_are_deleted_at_once(path, serve, look):
    """Only those that are listed, and none that goes on."""
    for name in ("lstm 1", "lstm 2", "lstm 3", "gru"):
        typical(path, name, count=60)
    going = typical(path, "lstm goes on", count=60, finish=False)
    tab = look(serve.url)
    ready(tab, 60)
    tab.click("#pick")
    assert tab.is_disabled("#pick-delete")
    tab.locator("[aria-label='Pick lstm goes on']").click(force=True)
    tab.click("#pick-all")
    assert tab.inner_text("#pick-delete") == "Delete 4 runs …"
    tab.click("[aria-label='Pick lstm 3']")
    filter_by(tab, "lstm")
    assert tab.inner_text("#pick-delete") == "Delete 2 runs …"
    tab.click("#pick-delete")
    asked = tab.inner_text(".pick .sure")
    assert "“lstm 2”, “lstm 1” with all that was recorded of their 120 steps" in asked
    tab.click(".pick >> text=Keep them")
    assert not tab.is_visible(".pick .sure")
    tab.click("#pick-delete")
    tab.click(".pick >> text=Delete for good")
    filter_by(tab, "")
    until(tab, "() => document.querySelectorAll('.runs a').length === 3")
    assert sorted(listed(tab)) == ["gru", "lstm 3", "lstm goes on"]
    assert tab.is_visible("[aria-label='Overlay gru on the charts']")
    assert tab.is_visible("#pick")
    going.writer.finish()


def test_the_recommendation(path, serve, look):
    typical(path)
    tab = look(serve.url)
    ready(tab, 500)
    with Store(path) as store:
        wanted = suggest_run(store, "lstm")
    until(
        tab,
        "text => document.querySelector('#panel-suggestion .headline')?.textContent === text",
        wanted.headline,
    )
    said = tab.inner_text("#panel-suggestion .reasons")
    assert all(reason in said for reason in wanted.reasons)
    tab.click("#panel-suggestion >> text=Lines to paste")
    assert wanted.lines["pytorch"] in tab.inner_text("#panel-suggestion")


def timed(path, name, seconds):
    """A run whose steps take so many seconds each; the validation loss comes at each tenth."""
    step = np.arange(1, 101)
    loss = 4.0 - step / 50
    writer = Writer(path, f"uid-{name}", name)
    writer.write([steps(("time", "clipwise/norm"), step, 1.7e9 + step * seconds, step / 10)])
    writer.write([steps(("loss",), step, loss), steps(("val_loss",), step[9::10], loss[9::10] + 0.25)])
    writer.finish()


def test_two_values_over_time_unsmoothed_and_saved(path, serve, look, tmp_path):
    timed(path, "slow", 60.0)
    timed(path, "fast", 6.0)
    tab = look(serve.url)
    ready(tab, 100)
    until(tab, "() => document.querySelector('#panel-loss .readout').textContent.includes('val_loss 2.25')")
    assert "mean 2.19" in reading(tab, "loss")
    tab.keyboard.press("s")
    until(tab, "() => !document.querySelector('#panel-loss .readout').textContent.includes('mean')")
    assert tab.input_value("#smooth") == "none"
    tab.check("[aria-label='Overlay slow on the charts']")
    tab.select_option("#axis", "time")
    until(tab, "() => document.querySelector('#panel-loss .readout').textContent.startsWith('1 h 39 min')")
    assert "fast 2 (9 min 54 s)" in reading(tab, "loss").replace("\n", " ")
    with tab.expect_download() as begun:
        tab.click("[aria-label='Save Loss as CSV']")
    begun.value.save_as(tmp_path / "loss.csv")
    rows = (tmp_path / "loss.csv").read_text().splitlines()
    assert rows[0] == "seconds,fast,fast: val_loss,slow,slow: val_loss"
    assert rows[1:4] == ["0,3.98,,3.98,", "6,3.96,,,", "12,3.94,,,"]
    assert rows[-1] == "5940,,,2,2.25"
    with tab.expect_download() as begun:
        tab.click("[aria-label='Save Loss as PNG']")
    begun.value.save_as(tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"
    tab.select_option("#beside", "")
    until(tab, "() => !document.querySelector('#panel-loss .readout').textContent.includes('val_loss')")


def test_a_chart_without_eyes_or_mouse(path, serve, look):
    timed(path, "fast", 6.0)
    tab = look(serve.url)
    ready(tab, 100)
    assert tab.get_attribute("#panel-norm .plot", "aria-label") == (
        "Gradient norm. norm: 0.1 at step 1, 10 at step 100; lowest 0.1 at step 1, highest 10 at step 100."
    )
    tab.focus("#panel-loss [aria-label='Save Loss as CSV']")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.matches('#panel-loss .plot')")
    tab.keyboard.press("Home")
    assert reading(tab, "loss").startswith("step 1\n")
    tab.keyboard.press("ArrowRight")
    assert reading(tab, "loss").startswith("step 2\n")
    assert reading(tab, "norm").startswith("step 2\n")  # all charts follow
    tab.keyboard.press("End")
    tab.keyboard.press("ArrowLeft")
    assert reading(tab, "loss").startswith("step 99\n")
    assert tab.get_attribute("#panel-loss .readout", "aria-live") == "polite"
    assert "from=" not in tab.evaluate("location.hash")
    tab.keyboard.press("Escape")
    assert reading(tab, "loss").startswith("step 100\n")
