"""What questions and commands have in common: how their parameters are read, and refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from creche.errors import CrecheError


class BadQuestion(CrecheError):
    """A question's parameters are not what it takes.

    Attributes:
        code: what is wrong, for programs.
    """

    def __init__(self, why: str, code: str = "bad-question") -> None:
        super().__init__(why)
        self.code = code


def check_names(question: str, params: Mapping[Any, Any], names: Sequence[str]) -> None:
    """Refuse parameters that are not known: without one, other jobs might be meant.

    Raises:
        BadQuestion: there is one.
    """
    unknown = sorted(str(name) for name in params if name not in names)
    if unknown:
        raise BadQuestion(f"{question} takes {', '.join(names)}, and not {unknown[0]!r}")
