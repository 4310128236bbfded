"""A call is judged as Python would judge it, from the function and from announced data alike."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from creche.errors import InvalidArguments
from creche.tasks.signature import (
    MAX_ANNOTATION_LENGTH,
    UNPRINTED_DEFAULT,
    Kind,
    Parameter,
    Signature,
)

NAMES = ("a", "b", "c", "d", "e", "f")


@st.composite
def parameter_lists(draw: st.DrawFn) -> list[Parameter]:
    """Any list of parameters that Python accepts in a def."""
    kinds = sorted(draw(st.lists(st.sampled_from(Kind), max_size=len(NAMES))))
    kinds = [
        kind
        for i, kind in enumerate(kinds)
        if i == 0 or kind is not kinds[i - 1] or kind not in (Kind.VAR_POSITIONAL, Kind.VAR_KEYWORD)
    ]
    parameters = []
    must_have_default = False
    for name, kind in zip(draw(st.permutations(NAMES)), kinds, strict=False):
        default = None
        if kind not in (Kind.VAR_POSITIONAL, Kind.VAR_KEYWORD):
            is_positional = kind <= Kind.POSITIONAL_OR_KEYWORD
            if (must_have_default and is_positional) or draw(st.booleans()):
                default = "0"
                must_have_default = must_have_default or is_positional
        annotation = draw(st.sampled_from([None, "int", "list[str]"]))
        parameters.append(Parameter(name, kind, default, annotation))
    return parameters


positional = st.lists(st.integers(), max_size=len(NAMES) + 1)
keywords = st.dictionaries(st.sampled_from((*NAMES, "other")), st.integers(), max_size=4)


def function_of(signature: Signature) -> Callable[..., Any]:
    """A function that Python itself makes of the signature's text."""
    namespace: dict[str, Any] = {}
    exec(f"def {signature}: return None", namespace)
    function: Callable[..., Any] = namespace[signature.task]
    return function


def accepts(check: Callable[[], object], refusal: type[Exception]) -> bool:
    try:
        check()
    except refusal:
        return False
    return True


@given(parameter_lists(), st.lists(st.tuples(positional, keywords), min_size=1, max_size=4))
@example(
    [
        Parameter("a", Kind.POSITIONAL_ONLY, None, None),
        Parameter("b", Kind.VAR_KEYWORD, None, None),
    ],
    [([], {"a": 1})],
)
@example(
    [Parameter("a", Kind.POSITIONAL_ONLY, "0", None), Parameter("b", Kind.VAR_KEYWORD, None, None)],
    [([], {"a": 1})],
)
@example(
    [Parameter(name, Kind.POSITIONAL_OR_KEYWORD, None, None) for name in "ab"],
    [([1], {"b": 2}), ([], {"b": 2}), ([1, 2], {"b": 2})],
)
def test_the_check_refuses_exactly_what_a_real_call_refuses(
    parameters: list[Parameter], calls: list[tuple[list[int], dict[str, int]]]
) -> None:
    written = Signature("job", parameters)
    function = function_of(written)
    of_function = Signature.of("job", function)
    announced = Signature.from_data("job", json.loads(json.dumps(of_function.data())))

    for args, kwargs in calls + calls:  # the second time from what the first remembered
        may_call = accepts(partial(function, *args, **kwargs), TypeError)
        for signature in (written, of_function, announced):
            assert accepts(partial(signature.check, args, kwargs), InvalidArguments) is may_call


def test_what_the_check_remembers_does_not_grow_with_the_calls() -> None:
    signature = Signature.of("job", lambda a, *rest, key=0: None)

    for count in range(1, 50):
        signature.check([0] * count, {"key": 1})

    assert len(signature._names) == 1


@given(parameter_lists(), positional, keywords)
def test_the_check_agrees_with_inspect(
    parameters: list[Parameter], args: list[int], kwargs: dict[str, int]
) -> None:
    signature = Signature("job", parameters)
    seen = inspect.signature(function_of(signature))
    # Until Python 3.13, bind() refuses a keyword for **kwargs that is named as a positional-only
    # parameter with a default; the call itself does not (see the test above).
    positional_only = {p.name for p in parameters if p.kind is Kind.POSITIONAL_ONLY and p.default}
    kwargs = {name: value for name, value in kwargs.items() if name not in positional_only}

    assert accepts(lambda: signature.check(args, kwargs), InvalidArguments) is accepts(
        lambda: seen.bind(*args, **kwargs), TypeError
    )


@given(parameter_lists(), st.none() | st.just("bool"))
def test_a_signature_survives_the_wire(parameters: list[Parameter], returns: str | None) -> None:
    signature = Signature("job", parameters, returns)

    assert Signature.from_data("job", json.loads(json.dumps(signature.data()))) == signature
    assert Signature.of("job", function_of(signature)).data() == signature.data()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
)
rows = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "", 3]),
        st.integers(-1, 6) | st.just("1"),
        st.sampled_from([None, "0", 0]),
        st.sampled_from([None, "int", 0]),
    ).map(list)
)


@given(
    json_values | st.fixed_dictionaries({"parameters": rows | json_values, "returns": json_values})
)
def test_announced_garbage_raises_value_error_and_nothing_else(data: object) -> None:
    try:
        signature = Signature.from_data("job", data)
    except ValueError:
        return
    assert Signature.from_data("job", signature.data()) == signature


IMPOSSIBLE: dict[str, tuple[list[list[object]], str]] = {
    "name-twice": ([["a", 1, None, None], ["a", 1, None, None]], "two parameters have one name"),
    "default-before": ([["a", 1, "0", None], ["b", 1, None, None]], "'b' needs a default"),
    "order": ([["a", 3, None, None], ["b", 1, None, None]], "'b' is in the wrong place"),
    "args-twice": ([["a", 2, None, None], ["b", 2, None, None]], "'b' is the second of its kind"),
    "kwargs-twice": ([["a", 4, None, None], ["b", 4, None, None]], "'b' is the second of its kind"),
    "kind": ([["a", 9, None, None]], "9 is not a valid Kind"),
    "short": ([["a", 1, None]], "a parameter is"),
    "no-name": ([["", 1, None, None]], "has a name"),
    "bool-kind": ([["a", True, None, None]], "a number for its kind"),
    "default": ([["a", 1, 0, None]], "'a' has a default or an annotation that is not text"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_parameter_list_that_python_would_refuse_is_refused(case: str) -> None:
    rows, words = IMPOSSIBLE[case]

    with pytest.raises(ValueError, match=words):
        Signature.from_data("job", {"parameters": rows, "returns": None})


def test_what_a_newer_worker_adds_to_its_announcement_is_ignored() -> None:
    data = {"parameters": [["a", 1, None, "int", "more"]], "returns": None, "raises": ["OSError"]}

    assert str(Signature.from_data("job", data)) == "job(a: int)"


def resize(path: str, width: int = 200, *, quality: float = 0.5) -> str:
    raise AssertionError("only its signature is looked at")


def only_positional(a: int, b: int = 1, /) -> None:
    raise AssertionError("only its signature is looked at")


WRONG: dict[str, tuple[Callable[..., Any], list[int], dict[str, int], str]] = {
    "missing": (resize, [], {}, "missing a required argument: 'path'"),
    "missing-two": (lambda a, b: None, [], {}, "missing required arguments: 'a', 'b'"),
    "missing-keyword": (lambda *, key: None, [], {}, "missing a required argument: 'key'"),
    "missing-after-args": (lambda *a, key: 0, [1, 2], {}, "missing a required argument: 'key'"),
    "too-many": (resize, [1, 2, 3], {}, "too many positional arguments: takes 2, got 3"),
    "twice": (resize, [1], {"path": 2}, "multiple values for argument 'path'"),
    "unexpected": (resize, [1], {"zoom": 2}, "got an unexpected keyword argument 'zoom'"),
    "misspelt": (
        resize,
        [1],
        {"widht": 2},
        "got an unexpected keyword argument 'widht' (did you mean 'width'?)",
    ),
    "positional-only": (
        only_positional,
        [],
        {"a": 1},
        "'a' is positional only, but was passed as a keyword",
    ),
    "positional-only-with-default": (
        only_positional,
        [1],
        {"b": 1},
        "'b' is positional only, but was passed as a keyword",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_error_names_task_argument_reason_and_signature(case: str) -> None:
    function, args, kwargs, why = WRONG[case]
    signature = Signature.of("shop.job", function)

    with pytest.raises(InvalidArguments) as caught:
        signature.check(args, kwargs)

    assert str(caught.value) == f"shop.job: {why}; its signature is {signature}"


def test_a_signature_reads_as_python() -> None:
    def everything(a, b: int = 1, /, c="x", *rest: str, d, e=None, **more: float) -> dict[str, int]:
        raise AssertionError("only its signature is looked at")

    assert str(Signature.of("everything", everything)) == (
        "everything(a, b: int = 1, /, c='x', *rest: str, d, e=None, **more: float)"
        " -> dict[str, int]"
    )
    assert str(Signature.of("job", lambda a, *, b: None)) == "job(a, *, b)"
    assert str(Signature.of("job", only_positional)) == "job(a: int, b: int = 1, /) -> None"


class Size:
    def __repr__(self) -> str:
        return "a\nb"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (-1.5, "-1.5"),
        ("a\nb", r"'a\nb'"),
        ("x" * 100, UNPRINTED_DEFAULT),
        (Size(), UNPRINTED_DEFAULT),
        ([], UNPRINTED_DEFAULT),
        (object, UNPRINTED_DEFAULT),
    ],
    ids=["none", "float", "text", "long", "object", "list", "class"],
)
def test_only_short_literals_are_announced_as_defaults(value: object, text: str) -> None:
    parameter = Signature.of("job", lambda a=value: None).parameters[0]

    assert parameter.default == text
    assert not parameter.is_required


def test_annotations_are_announced_as_they_are_written() -> None:
    def written(a: int, b: "str", c: int | None, d: list[Size], e: 'dict[str, "Size"]'): ...  # noqa: UP037

    plain: dict[str, Any] = {"a": int, "b": "str", "c": int | None, "d": list[int], "e": None}

    def evaluated(a, b, c, d, e): ...

    evaluated.__annotations__ = plain

    assert [p.annotation for p in Signature.of("job", written).parameters] == [
        "int",
        "str",
        "int | None",
        "list[Size]",
        'dict[str, "Size"]',
    ]
    assert [p.annotation for p in Signature.of("job", evaluated).parameters] == [
        "int",
        "str",
        "int | None",
        "list[int]",
        "None",
    ]


def test_an_annotation_is_one_line_of_bounded_length_that_utf_8_can_carry() -> None:
    def job(a, b): ...

    job.__annotations__ = {"a": "int\n" * 200, "b": "\ud800"}
    long, odd = (p.annotation for p in Signature.of("job", job).parameters)

    assert long is not None
    assert len(long) == MAX_ANNOTATION_LENGTH
    assert long.startswith("int int")
    assert long.endswith("…")
    assert odd == "?"


def test_a_command_line_finds_the_parameter_of_each_argument() -> None:
    def job(a: str, b: int = 1, /, c: str = "", *rest: float, d: bool = True, **more: bytes): ...

    def found(argument: int | str) -> str | None:
        parameter = Signature.of("job", job).parameter_for(argument)
        return parameter and parameter.name

    assert [found(i) for i in range(5)] == ["a", "b", "c", "rest", "rest"]
    assert [found(name) for name in ("c", "d", "other", "a")] == ["c", "d", "more", "more"]
    assert Signature.of("job", lambda: None).parameter_for(0) is None
    assert Signature.of("job", lambda a, /: None).parameter_for("a") is None


def test_signatures_compare_by_what_they_say() -> None:
    one, same = Signature.of("job", resize), Signature.of("job", resize)

    assert one == same
    assert hash(one) == hash(same)
    assert one != Signature.of("other", resize)
    assert one != "job"
