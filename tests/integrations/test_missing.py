"""What is said where a trainer is not installed."""

import runpy
import sys

import pytest

pytest.importorskip("torch")

from clipwise.integrations._common import load

TRAINERS = {"lightning": ["lightning", "pytorch_lightning"], "transformers": ["transformers"]}


class Hides:
    """A finder of modules that does not find some packages."""

    def __init__(self, finder, hidden):
        self.finder, self.hidden = finder, hidden

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.hidden else self.finder.find_spec(name, path, target)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_error_says_how_to_install_it(trainer, monkeypatch):
    hidden = TRAINERS[trainer]
    for name in [name for name in sys.modules if name.partition(".")[0] in hidden]:
        monkeypatch.delitem(sys.modules, name)
    finders = [Hides(finder, hidden) for finder in sys.meta_path if hasattr(finder, "find_spec")]
    monkeypatch.setattr(sys, "meta_path", finders)
    with pytest.raises(ModuleNotFoundError, match=rf'pip install "clipwise\[{trainer}\]"') as caught:
        runpy.run_module(f"clipwise.integrations.{trainer}")
    assert caught.value.name == TRAINERS[trainer][0]


def test_one_that_is_there_but_broken_says_so_itself(monkeypatch, tmp_path):
    (tmp_path / "half_a_trainer.py").write_text("import a_module_that_is_nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'a_module_that_is_nowhere'"):
        load("half_a_trainer", "half")
