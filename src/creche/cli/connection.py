"""How a command reaches the plane: as a client, with warnings on stderr."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from creche.cli.output import say
from creche.client.client import Client

ASK_S = 5.0
"""How long a command that only asks may take to connect, and then to be answered."""

SUBMIT_S = 10.0
"""How long a submission may take: longer, as a full lane makes it wait for room."""


@asynccontextmanager
async def open_client(url: str, timeout_s: float = ASK_S) -> AsyncIterator[Client]:
    """Open a client of the plane at *url*; what the plane wants its user to know goes to stderr.

    Raises:
        PlaneUnreachable: no plane answered within *timeout_s*.
        Refused: the plane does not want this peer.
    """
    said: set[str] = set()

    def warn(why: str) -> None:
        if why not in said:  # the plane warns of each job; many of one kind are one warning here
            said.add(why)
            say("warning", why)

    async with Client(url, timeout=timeout_s, on_warning=warn) as client:
        yield client


async def ask(url: str, question: str, timeout_s: float = ASK_S, **params: Any) -> Any:
    """Connect, ask one question, and return the answer. Raises as `open_client` does."""
    async with open_client(url, timeout_s) as client:
        return await client.ask(question, params)
