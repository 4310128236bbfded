"""The part of CDDL (RFC 8610) that docs/protocol.cddl uses, read to the letter.

The validator from PyPI reads the definition too and accepts what is right, but it also lets some
wrong things pass (a negative ``uint``, bytes within a range of integers), so it cannot show that
the definition refuses them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

Check: TypeAlias = Callable[[Any], bool]

COMMENT = re.compile(r";[^\n]*")
TOKEN = re.compile(r"\.\.|\.size|=>|\"[^\"]*\"|-?\d+|[A-Za-z_][A-Za-z0-9_-]*|[\[\]{}=/,:*]")
PRELUDE: dict[str, Check] = {
    "any": lambda value: True,
    "null": lambda value: value is None,
    "bool": lambda value: type(value) is bool,
    "tstr": lambda value: type(value) is str,
    "bstr": lambda value: type(value) is bytes,
    "float": lambda value: type(value) is float,
}


class Definition:
    """A CDDL document; `rules` are its checks by name."""

    def __init__(self, text: str) -> None:
        self.rules: dict[str, Check] = {}
        text = COMMENT.sub("", text)
        self._tokens = TOKEN.findall(text)
        if "".join(text.split()) != "".join(self._tokens):
            raise ValueError("there is something in the definition that this does not read")
        while self._tokens:
            name = self._take()
            self._take("=")
            if name in self.rules or name in PRELUDE:
                raise ValueError(f"{name} is defined twice")
            self.rules[name] = self._type()

    def _take(self, wanted: str | None = None) -> str:
        token: str = self._tokens.pop(0)
        if wanted not in (None, token):
            raise ValueError(f"{wanted!r} is expected before {self._tokens[:5]}, not {token!r}")
        return token

    def _next(self, ahead: int = 0) -> str:
        return self._tokens[ahead] if ahead < len(self._tokens) else ""

    def _type(self) -> Check:
        choices = [self._one_type()]
        while self._next() == "/":
            self._take()
            choices.append(self._one_type())
        return lambda value: any(check(value) for check in choices)

    def _one_type(self) -> Check:
        token = self._take()
        if token == "[":
            return self._array()
        if token == "{":
            return self._map()
        if token[0] == '"':
            return lambda value: type(value) is str and value == token[1:-1]
        if re.fullmatch(r"-?\d+", token):
            least = most = int(token)
            if self._next() == "..":
                self._take()
                most = int(self._take())
            return lambda value: type(value) is int and least <= value <= most
        if self._next() == ".size":
            self._take()
            size = int(self._take())
            return lambda value: self._named(token)(value) and len(value) == size
        return lambda value: self._named(token)(value)

    def _named(self, name: str) -> Check:
        return PRELUDE.get(name) or self.rules[name]

    def _array(self) -> Check:
        members: list[tuple[bool, Check]] = []
        while self._next() != "]":
            is_repeated = self._next() == "*"
            if is_repeated:
                self._take()
            if self._next(1) == ":":
                self._take()
                self._take()
            members.append((is_repeated, self._type()))
            if self._next() == ",":
                self._take()
        self._take("]")
        if any(is_repeated for is_repeated, _ in members):
            ((_, only),) = members
            return lambda value: type(value) is list and all(map(only, value))
        checks = [check for _, check in members]
        return lambda value: (
            type(value) is list
            and len(value) == len(checks)
            and all(check(item) for check, item in zip(checks, value, strict=True))
        )

    def _map(self) -> Check:
        if self._next() == "*":
            self._take()
            key = self._one_type()
            self._take("=>")
            item = self._type()
            self._take("}")
            return lambda value: (
                type(value) is dict and all(key(k) and item(v) for k, v in value.items())
            )
        checks: dict[str, Check] = {}
        while self._next() != "}":
            name = self._take()
            self._take(":")
            checks[name] = self._type()
            if self._next() == ",":
                self._take()
        self._take("}")
        return lambda value: (
            type(value) is dict
            and value.keys() == checks.keys()
            and all(check(value[name]) for name, check in checks.items())
        )
