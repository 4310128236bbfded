"""Errors say what happened, and survive being copied and sent to another process."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from creche import errors
from creche.errors import CrecheError, JobFailed


def example(kind: type[CrecheError]) -> CrecheError:
    """An error of this kind, with something for each of its facts."""
    if kind.__init__ is Exception.__init__:
        return kind("because")
    values = {"pid": 7, "size_bytes": 2000, "limit_bytes": 1000, "timeout_s": 1.5, "notes": ["n"]}
    values |= {"countdown": 2.5, "code": -9}
    names = list(inspect.signature(kind).parameters)
    return kind(*(values.get(name, f"the {name}") for name in names))


KINDS = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, CrecheError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_is_the_same_after_a_copy_or_a_journey(kind: type[CrecheError]) -> None:
    error = example(kind)
    assert str(error)
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is kind
        assert str(other) == str(error)
        assert vars(other) == vars(error)


def test_a_remote_failure_keeps_its_notes_once() -> None:
    error = JobFailed("id", "shop.NoStock", "none left", "Traceback ...", ["in the middle"])
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))
    assert again.__notes__ == ["in the middle"]
    assert str(again) == "job id failed: shop.NoStock: none left"
