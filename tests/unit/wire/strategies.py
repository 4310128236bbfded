"""Messages for property tests, built from the annotations of their classes."""

from __future__ import annotations

import types
from typing import Any, get_args, get_type_hints

from hypothesis import strategies as st

from creche.wire import codec
from creche.wire import messages as m

ANY_TEXT = st.text(max_size=20)  # no surrogates: UTF-8 has none
ANY_INT = st.one_of(
    st.integers(0, codec.MAX_INT), st.sampled_from([0, 23, 24, 255, 256, 2**32, codec.MAX_INT])
)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | ANY_TEXT
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
FACTS = st.dictionaries(ANY_TEXT, PLAIN, max_size=3)
TOKENS = st.lists(ANY_INT, min_size=3, max_size=3)

# What a field of this name holds beside what its type says: written again on purpose.
BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "id": st.binary(min_size=16, max_size=16),
    "ids": st.lists(st.binary(min_size=16, max_size=16), max_size=4),
    "session": st.binary(min_size=16, max_size=16),
    "incarnation": st.binary(min_size=16, max_size=16),
    "role": st.sampled_from(["client", "worker"]),
    "priority": st.integers(0, 3),
    "state": st.integers(10, 14),
    "tokens": st.lists(TOKENS, max_size=4),
    "hz": st.floats(0.001, 1000) | st.integers(1, 60),
}


def fields_of(cls: type[Any], name: str) -> st.SearchStrategy[Any]:
    """Values that field *name* of message class *cls* may hold."""
    hint = get_type_hints(cls)[name]
    if name in BY_NAME:
        optional = isinstance(hint, types.UnionType) and type(None) in get_args(hint)
        return BY_NAME[name] | st.none() if optional else BY_NAME[name]
    return _of_hint(hint)


def _of_hint(hint: Any) -> st.SearchStrategy[Any]:
    if isinstance(hint, types.UnionType):
        return st.one_of([_of_hint(arg) for arg in get_args(hint)])
    if hint == m.Facts:
        return FACTS
    if getattr(hint, "__origin__", None) is list:
        return st.lists(_of_hint(get_args(hint)[0]), max_size=4)
    return {
        int: ANY_INT,
        str: ANY_TEXT,
        bytes: st.binary(max_size=40),
        bool: st.booleans(),
        type(None): st.none(),
        Any: PLAIN,
    }[hint]


def messages(*classes: type[Any]) -> st.SearchStrategy[m.Message]:
    """Any message of these classes; of all when none is given."""
    return st.one_of(
        [
            st.builds(cls, **{name: fields_of(cls, name) for name in cls._fields})
            for cls in classes or tuple(m.KIND_OF)
        ]
    )


def sample(cls: type[Any]) -> m.Message:
    """One plain message of class *cls*, always the same."""
    by_name = {
        "id": b"i" * 16, "session": b"s" * 16, "incarnation": b"p" * 16, "priority": 2,
        "state": 10, "hz": 2.0, "role": "client", "ids": [b"i" * 16], "tokens": [[1, 2, 3]],
    }  # fmt: skip
    by_hint: list[tuple[Any, Any]] = [
        (int, 7), (str, "text"), (bytes, b"bytes"), (bool, True), (Any, {"a": [1]}),
        (m.Facts, {"a": 1}), (list[int], [1, 2]), (list[str], ["a"]), (list[m.Facts], [{"a": 1}]),
        (bytes | None, b"bytes"), (str | None, "text"), (m.Facts | None, {"a": 1}),
        (int | None, 7),
    ]  # fmt: skip
    hints = get_type_hints(cls)
    row = []
    for name in cls._fields:
        if name in by_name:
            row.append(by_name[name])
        else:
            row.append(next(value for hint, value in by_hint if hint == hints[name]))
    made: m.Message = cls(*row)
    return made
