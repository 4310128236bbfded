"""A task's signature as plain data, and the check of a call against it.

A worker announces the signature, so that a client without the task's code refuses a wrong call
before anything is sent. The check is written once, over `Parameter` records, and they come from a
function (`Signature.of`) or from announced data (`Signature.from_data`) alike.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from enum import IntEnum
from typing import Any, NamedTuple

from creche.errors import InvalidArguments

if sys.version_info >= (3, 14):
    import annotationlib

MAX_ANNOTATION_LENGTH = 200
MAX_DEFAULT_LENGTH = 40
"""Characters. A signature is read by people and kept by every peer; what is longer is cut."""

UNPRINTED_DEFAULT = "..."
"""Announced for a default that is not a short literal."""


class Kind(IntEnum):
    """How an argument reaches its parameter. The numbers are sent over the wire."""

    POSITIONAL_ONLY = 0
    POSITIONAL_OR_KEYWORD = 1
    VAR_POSITIONAL = 2
    KEYWORD_ONLY = 3
    VAR_KEYWORD = 4


class Parameter(NamedTuple):
    """One parameter. `default` is None when an argument is required, else the default as text."""

    name: str
    kind: Kind
    default: str | None
    annotation: str | None

    @property
    def is_required(self) -> bool:
        """Whether a call without an argument for it is wrong."""
        return self.default is None and self.kind not in (Kind.VAR_POSITIONAL, Kind.VAR_KEYWORD)

    def __str__(self) -> str:
        stars = {Kind.VAR_POSITIONAL: "*", Kind.VAR_KEYWORD: "**"}.get(self.kind, "")
        text = f"{stars}{self.name}"
        if self.annotation is not None:
            text += f": {self.annotation}"
        if self.default is not None:
            text += f" = {self.default}" if self.annotation is not None else f"={self.default}"
        return text


class _Names(NamedTuple):
    """Which keywords fit beside a given number of positional arguments."""

    required: frozenset[str]
    allowed: frozenset[str]
    barred: frozenset[str]
    """Not even where any keyword is taken: these parameters have a value already, or need one that
    only a positional argument can give."""


class Signature:
    """What a task may be called with. Immutable; equal when task, parameters and result are."""

    __slots__ = (
        "_by_name",
        "_keywords",
        "_least",
        "_most",
        "_names",
        "_positional",
        "_takes_any_keyword",
        "parameters",
        "returns",
        "task",
    )

    def __init__(
        self, task: str, parameters: Sequence[Parameter], returns: str | None = None
    ) -> None:
        """Make the signature of the task named *task*.

        Raises:
            ValueError: Python would not accept *parameters* in a ``def``.
        """
        _refuse_impossible(parameters)
        self.task = task
        self.parameters = tuple(parameters)
        self.returns = returns
        self._positional = tuple(p for p in parameters if p.kind <= Kind.POSITIONAL_OR_KEYWORD)
        self._keywords = tuple(p for p in parameters if p.kind is Kind.KEYWORD_ONLY)
        self._by_name = {p.name: p for p in parameters}
        kinds = {p.kind for p in parameters}
        self._takes_any_keyword = Kind.VAR_KEYWORD in kinds
        # A call without keywords is right when `_least <= len(args) <= _most`. A required keyword
        # makes every such call wrong: no number of arguments is large enough.
        self._most = sys.maxsize if Kind.VAR_POSITIONAL in kinds else len(self._positional)
        needs_keyword = any(p.is_required for p in self._keywords)
        required = sum(p.is_required for p in self._positional)
        self._least = sys.maxsize if needs_keyword else required
        self._names: dict[int, _Names] = {}

    @classmethod
    def of(cls, task: str, function: Callable[..., Any]) -> Signature:
        """Return the signature of *function*, as `inspect.signature` sees it.

        Raises:
            ValueError: Python cannot tell (some built-in functions).
            TypeError: *function* is not of a kind that has a signature.
        """
        if sys.version_info >= (3, 14):
            seen = inspect.signature(function, annotation_format=annotationlib.Format.STRING)
        else:
            seen = inspect.signature(function)
        parameters = [
            Parameter(
                p.name, Kind(int(p.kind)), _default_text(p.default), _annotation_text(p.annotation)
            )
            for p in seen.parameters.values()
        ]
        return cls(task, parameters, _annotation_text(seen.return_annotation))

    @classmethod
    def from_data(cls, task: str, data: object) -> Signature:
        """Return the signature that `data` gave as *data*. Unknown keys are ignored.

        Raises:
            ValueError: *data* is not a signature's.
        """
        if not isinstance(data, Mapping):
            raise ValueError("a signature is a map")
        rows, returns = data.get("parameters"), data.get("returns")
        if not isinstance(rows, list | tuple) or not isinstance(returns, str | None):
            raise ValueError("a signature has a list of parameters and a text or nil of returns")
        return cls(task, [_parameter(row) for row in rows], returns)

    def without(self, names: Collection[str]) -> Signature:
        """Return the signature without these parameters."""
        if not names:
            return self
        rest = [p for p in self.parameters if p.name not in names]
        return Signature(self.task, rest, self.returns)

    def data(self) -> dict[str, Any]:
        """Return the signature as CBOR and JSON can carry it.

        ``{"parameters": [[name, kind, default, annotation], ...], "returns": text or None}``: kind
        is a number of `Kind`; default is text, None when the argument is required and ``"..."``
        when it is not a short literal; annotation is text as written, None when there is none.
        """
        rows = [[p.name, int(p.kind), p.default, p.annotation] for p in self.parameters]
        return {"parameters": rows, "returns": self.returns}

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Return if the task may be called with *args* and *kwargs*. Types are not looked at.

        Raises:
            InvalidArguments: it may not; says which argument, why, and what the signature is.
        """
        given = len(args)
        if not kwargs:
            if self._least <= given <= self._most:
                return
        else:
            fits = self._names.get(given) or self._names_beside(given)
            keywords = kwargs.keys()
            if fits.required <= keywords and given <= self._most:
                if self._takes_any_keyword:
                    if fits.barred.isdisjoint(keywords):
                        return
                elif keywords <= fits.allowed:
                    return
        why = self._why_refused(given, kwargs)
        # Something is wrong with the call unless the rules above and below differ; the property
        # tests hold both against real calls.
        raise InvalidArguments(f"{self.task}: {why}; its signature is {self}")

    def parameter_for(self, argument: int | str) -> Parameter | None:
        """Return the parameter that receives positional *argument* (from 0) or that keyword.

        None when no parameter does. A command line uses it to leave a ``str`` argument as text.
        """
        if isinstance(argument, int):
            if argument < len(self._positional):
                return self._positional[argument]
            return next((p for p in self.parameters if p.kind is Kind.VAR_POSITIONAL), None)
        named = self._by_name.get(argument)
        if named is not None and named.kind in (Kind.POSITIONAL_OR_KEYWORD, Kind.KEYWORD_ONLY):
            return named
        return next((p for p in self.parameters if p.kind is Kind.VAR_KEYWORD), None)

    def __str__(self) -> str:
        """Return the call as Python writes it: ``resize_image(path: str, width: int = 200)``."""
        parts: list[str] = []
        before: Kind | None = None
        for parameter in self.parameters:
            if before is Kind.POSITIONAL_ONLY and parameter.kind is not Kind.POSITIONAL_ONLY:
                parts.append("/")
            if parameter.kind is Kind.KEYWORD_ONLY and before not in (
                Kind.VAR_POSITIONAL,
                Kind.KEYWORD_ONLY,
            ):
                parts.append("*")
            parts.append(str(parameter))
            before = parameter.kind
        if before is Kind.POSITIONAL_ONLY:
            parts.append("/")
        result = f" -> {self.returns}" if self.returns is not None else ""
        return f"{self.task}({', '.join(parts)}){result}"

    def __repr__(self) -> str:
        return f"<Signature {self}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Signature):
            return NotImplemented
        mine = (self.task, self.parameters, self.returns)
        return mine == (other.task, other.parameters, other.returns)

    def __hash__(self) -> int:
        return hash((self.task, self.parameters, self.returns))

    def _names_beside(self, given: int) -> _Names:
        """Work out, once a count, which keywords fit beside *given* positional arguments."""
        given = min(given, len(self._positional))  # what is more is *args, or too many
        if given in self._names:
            return self._names[given]
        unbound = self._positional[given:] + self._keywords
        bound = self._positional[:given]
        by_keyword = {p.name for p in unbound if p.kind is not Kind.POSITIONAL_ONLY}
        required = {p.name for p in unbound if p.is_required}
        taken = {p.name for p in bound if p.kind is Kind.POSITIONAL_OR_KEYWORD}
        fits = _Names(
            required=frozenset(required),
            allowed=frozenset(by_keyword),
            barred=frozenset(taken | (required - by_keyword)),
        )
        self._names[given] = fits
        return fits

    def _why_refused(self, given: int, kwargs: Mapping[str, Any]) -> str:
        """Say what is wrong with a call, in Python's own words where it has them."""
        if given > self._most:
            return f"too many positional arguments: takes {len(self._positional)}, got {given}"
        for parameter in self._positional[:given]:
            if parameter.kind is Kind.POSITIONAL_OR_KEYWORD and parameter.name in kwargs:
                return f"multiple values for argument {parameter.name!r}"
        unbound = self._positional[given:]
        for parameter in unbound:
            by_keyword = parameter.kind is Kind.POSITIONAL_ONLY and parameter.name in kwargs
            if by_keyword and (parameter.is_required or not self._takes_any_keyword):
                return f"{parameter.name!r} is positional only, but was passed as a keyword"
        missing = [p for p in unbound + self._keywords if p.is_required and p.name not in kwargs]
        if missing:
            names = ", ".join(repr(p.name) for p in missing)
            what = "a required argument" if len(missing) == 1 else "required arguments"
            return f"missing {what}: {names}"
        allowed = [p.name for p in unbound + self._keywords if p.kind is not Kind.POSITIONAL_ONLY]
        return _why_unexpected([name for name in kwargs if name not in allowed], allowed)


def _why_unexpected(names: Sequence[str], allowed: Collection[str]) -> str:
    if not names:
        raise AssertionError("a call that fits was refused")
    name = names[0]
    near = get_close_matches(name, allowed, 1)
    return f"got an unexpected keyword argument {name!r}" + (
        f" (did you mean {near[0]!r}?)" if near else ""
    )


def _refuse_impossible(parameters: Sequence[Parameter]) -> None:
    """Raise ValueError for what cannot be a parameter list: announced data may be anything."""
    if len({p.name for p in parameters}) != len(parameters):
        raise ValueError("two parameters have one name")
    before: Parameter | None = None
    for parameter in parameters:
        if before is not None:
            if parameter.kind < before.kind:
                raise ValueError(f"parameter {parameter.name!r} is in the wrong place")
            if parameter.kind is before.kind and parameter.kind in (
                Kind.VAR_POSITIONAL,
                Kind.VAR_KEYWORD,
            ):
                raise ValueError(f"parameter {parameter.name!r} is the second of its kind")
            if (
                parameter.kind <= Kind.POSITIONAL_OR_KEYWORD
                and parameter.is_required
                and not before.is_required
            ):
                raise ValueError(f"parameter {parameter.name!r} needs a default, as the one before")
        before = parameter


def _parameter(row: object) -> Parameter:
    if not isinstance(row, list | tuple) or len(row) < 4:
        raise ValueError("a parameter is [name, kind, default, annotation]")
    name, kind, default, annotation = row[:4]  # a newer worker may say more
    if not isinstance(name, str) or not name or type(kind) is not int:
        raise ValueError("a parameter has a name and a number for its kind")
    if not isinstance(default, str | None) or not isinstance(annotation, str | None):
        raise ValueError(f"parameter {name!r} has a default or an annotation that is not text")
    return Parameter(name, Kind(kind), default, annotation)


def _default_text(value: object) -> str | None:
    if value is inspect.Parameter.empty:
        return None
    if value is None or type(value) in (bool, int, float, str):
        text = repr(value)
        if len(text) <= MAX_DEFAULT_LENGTH and text.isprintable():
            return text
    return UNPRINTED_DEFAULT


def _annotation_text(annotation: object) -> str | None:
    if annotation is inspect.Parameter.empty:
        return None
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = text.strip()
    # A forward reference under `from __future__ import annotations` is quoted twice.
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return printable(text, MAX_ANNOTATION_LENGTH)


def printable(text: str, length: int) -> str:
    """Return *text* as one line of UTF-8 that is at most *length* characters long."""
    text = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    return text if len(text) <= length else text[: length - 1] + "…"
