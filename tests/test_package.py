"""The public names, what importing costs, and which way imports point."""

import subprocess
import sys

import pytest

import clipwise

FRAMEWORKS = ("torch", "jax", "keras", "tensorflow", "optax", "lightning", "lightning_fabric", "transformers")
HEAVY = (*FRAMEWORKS, "sklearn", "polars", "pandas", "matplotlib", "pydantic", "rich", "click", "yaml")

LIGHT = ("__future__", "copy", "dataclasses", "difflib", "heapq", "_heapq", "inspect", "numbers", "importlib")


def modules_after(statement: str, beside: str = "") -> set[str]:
    """The top-level modules that a fresh interpreter loads in a statement, after another one."""
    names = "{name.partition('.')[0] for name in sys.modules}"
    before = f"{beside}\nimport sys\nbefore = {names}\n" if beside else "import sys\nbefore = set()\n"
    code = f"{before}{statement}\nprint(*{names} - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_exported_names():
    assert clipwise.__all__ == sorted(
        [
            *("AnyClip", "ByName", "Chain", "Clip", "ClipReport", "Monitor"),
            *("clip_by_value", "clip_by_norm", "clip_by_global_norm", "clip_by_block_rms"),
            *(
                "adaptive_grad_clip",
                "autoclip",
                "zclip",
                "adagc",
                "norm_growth_limit",
                "skip_spikes",
                "stable_adamw",
                "auto",
                "chain",
                "by_name",
            ),
            *("config", "data", "errors", "jax", "keras", "monitor", "tensorflow", "thresholds", "torch"),
            "suggest",
        ]
    )
    for name in clipwise.__all__:
        assert getattr(clipwise, name) is not None
    assert set(clipwise.__all__) <= set(dir(clipwise))


def test_the_names_of_the_torch_back_end():
    assert sorted(clipwise.torch.__all__) == sorted(
        [
            *("AttachedClipper", "Clipper", "Patch", "UpdateClipper", "WeightClipper"),
            *("attach", "clip_", "engine", "patch"),
            *("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"),
            *("PACT", "ClampedSwiGLU", "ClippedReLU", "HardTanh", "QKClip", "SoftCap", "ClipValues"),
            *("clip_activations", "gradient_penalty", "per_example", "PerExample", "ExampleReport"),
        ]
    )
    for name in clipwise.torch.__all__:
        assert getattr(clipwise.torch, name).__doc__


def test_every_public_thing_says_what_it_does():
    for module in (clipwise, clipwise.thresholds, clipwise.torch, clipwise.config, clipwise.errors):
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing) and getattr(thing, "__module__", "").startswith("clipwise"):
                assert thing.__doc__, f"{module.__name__}.{name} has no docstring"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'clip_by_mood'"):
        _ = clipwise.clip_by_mood


def test_importing_clipwise_imports_no_framework_and_nothing_heavy():
    assert not modules_after("import clipwise") & set(HEAVY)
    assert not modules_after("import clipwise.config") & set(HEAVY)


def test_importing_clipwise_costs_little_beyond_numpy():
    """Of other packages one, and of the standard library what takes a millisecond or two."""
    beyond = modules_after("import clipwise") - modules_after("import numpy")
    assert beyond - sys.stdlib_module_names == {"clipwise", "array_api_compat"}
    assert beyond & sys.stdlib_module_names <= {*LIGHT}


@pytest.mark.parametrize(
    ("name", "first"),
    [("torch", "torch"), ("jax", "jax, optax"), ("tensorflow", "tensorflow"), ("keras", "keras")],
)
def test_a_back_end_imports_no_other(name, first):
    """Nothing heavy but what its own framework brings."""
    assert not modules_after(f"import clipwise; clipwise.{name}", beside=f"import {first}") & set(HEAVY)


@pytest.mark.parametrize("name", ["jax", "keras", "tensorflow"])
def test_the_names_of_the_other_back_ends(name):
    back_end = getattr(clipwise, name)
    assert len(set(back_end.__all__)) == len(back_end.__all__)
    assert set(back_end.__all__) >= ({"attach", "report"} if name == "keras" else {"clip", "init"})
    for public in back_end.__all__:
        assert getattr(back_end, public).__doc__


def test_a_missing_framework_says_what_to_install():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import clipwise\n"
        "try: clipwise.torch\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "clipwise[torch]"' in done.stdout


def test_imports_point_downwards():
    """The contracts in pyproject.toml, through import-linter."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
