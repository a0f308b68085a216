"""Whose call is under way, and which line a warning is about."""

import functools
import sys
import types
import warnings

import pytest

from clipwise.stack import frames_of, warn


def named(name, inner):
    """A function of another package that calls one."""
    module = types.ModuleType(name)
    exec("def call(inner):\n    return inner()", module.__dict__)
    return functools.partial(module.call, inner)


def test_frames_by_name_and_by_file_the_latest_first():
    class Optimizer:
        def step(self, inner=None):
            return inner() if inner else [frame.f_locals["self"] for frame in frames_of("step")]

    one, other = Optimizer(), Optimizer()
    assert one.step(lambda: other.step()) == [other, one]
    assert one.step(lambda: [frame.f_code.co_name for frame in frames_of("train", "no_such")]) == []

    def here():
        frames = list(frames_of(file=__file__))
        return [frame.f_code.co_name for frame in frames]

    assert here()[:2] == ["here", "test_frames_by_name_and_by_file_the_latest_first"]


def test_only_the_frames_that_are_meant_are_asked_for_their_locals():
    """In Python 3.11 and 3.12 asking copies them, and so keeps alive what they hold."""

    def outer():
        big = object()
        before = sys.getrefcount(big)
        list(frames_of("step"))
        return sys.getrefcount(big) - before

    assert outer() == 0


@pytest.mark.parametrize(
    ("between", "past", "where"),
    [
        ([], (), "here"),
        (["clipwise.torch.somewhere", "clipwise"], (), "here"),
        (["clipwise", "torch.nn.utils"], (), "there"),
        (["clipwise", "torch.nn.utils"], ("torch",), "here"),
        (["clipwiser"], (), "there"),
    ],
)
def test_a_warning_is_about_the_line_that_called(between, past, where):
    def call():
        warn("look out", past=past)

    inner = types.FunctionType(
        call.__code__, {"__name__": "clipwise", "warn": warn}, "call", None, call.__closure__
    )
    for name in between:
        inner = named(name, inner)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inner()
    assert [str(one.message) for one in caught] == ["look out"]
    assert (caught[0].filename == __file__) == (where == "here")
