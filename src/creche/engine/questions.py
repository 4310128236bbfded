"""What is wrong with a question or a command of a peer."""

from __future__ import annotations

from creche.errors import CrecheError


class BadQuestion(CrecheError):
    """A question's parameters are not what it takes.

    Attributes:
        code: what is wrong, for programs.
    """

    def __init__(self, why: str, code: str = "bad-question") -> None:
        super().__init__(why)
        self.code = code
