"""How a command reaches the plane: as a client, with warnings on stderr."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from creche.channel.tls import TlsFiles, context_for
from creche.cli.options import Address
from creche.cli.output import say
from creche.client.client import Client
from creche.peer.credential import Credential, credential_of

ASK_S = 5.0
"""How long a command that only asks may take to connect, and then to be answered."""

SUBMIT_S = 10.0
"""How long a submission may take: longer, as a full lane makes it wait for room."""

NOTICE_S = 1.0
"""When a command that has not reached its plane yet says that it waits for it."""


GLANCE_S = 0.25
"""How often a command that waits long looks whether its plane is still there."""


@asynccontextmanager
async def open_client(
    where: Address | str, timeout_s: float = ASK_S, *, tells_of_loss: bool = False
) -> AsyncIterator[Client]:
    """Open a client of the plane at *where*; what the plane wants its user to know goes to stderr,
    and that it is waited for as well; if wanted, also when its connection is lost later.

    Raises:
        PlaneUnreachable: no plane answered within *timeout_s*; a `PlaneStopping` if it was about
            to end.
        Refused: the plane does not want this peer.
        SettingsError: what it is to be shown cannot be read.
    """
    url, credential, tls = shown_to(where)
    said: set[str] = set()

    def warn(why: str) -> None:
        if why not in said:  # the plane warns of each job; many of one kind are one warning here
            said.add(why)
            say("warning", why)

    error: BaseException | None = None
    waiting, watching = trio.CancelScope(), trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_say_that_it_waits, waiting, url, timeout_s)
        try:
            async with Client(
                url, timeout=timeout_s, on_warning=warn, token=credential, tls=tls
            ) as client:
                waiting.cancel()
                if tells_of_loss:
                    nursery.start_soon(_tell_of_loss, watching, client, url)
                try:
                    yield client
                finally:
                    watching.cancel()  # before it is closed, which is no loss
        except trio.Cancelled:
            raise
        except BaseException as raised:
            # Kept out of the nursery, which would wrap it.
            error = raised
        finally:
            waiting.cancel()
    if error is not None:
        raise error


async def _say_that_it_waits(waiting: trio.CancelScope, url: str, timeout_s: float) -> None:
    with waiting:
        await trio.sleep(NOTICE_S)
        say("", f"waiting for the plane at {url}, for {timeout_s:g} s at the most")


async def _tell_of_loss(watching: trio.CancelScope, client: Client, url: str) -> None:
    with watching:
        absent = 0
        while True:
            await trio.sleep(GLANCE_S)
            before, absent = absent, 0 if client.is_connected else absent + 1
            if absent == 2:  # seen once, it may be a client that is being left
                say("warning", f"the connection to the plane at {url} is lost: it is tried again")
            elif before >= 2 and not absent:
                say("", "the plane is there again")


def shown_to(where: Address | str) -> tuple[str, Credential, ssl.SSLContext | None]:
    """Return the URL of a plane, the token for it, and how TLS is spoken with it.

    Raises:
        SettingsError: a file cannot be used.
    """
    if isinstance(where, str):
        where = Address(where)
    files = TlsFiles(where.tls_ca, where.tls_cert, where.tls_key)
    tls = context_for(where.url, None, files, "--tls-ca, --tls-cert or --tls-key")
    credential = credential_of(None, where.token_file, on_warning=partial(say, "warning"))
    return where.url, credential, tls


async def ask(where: Address | str, question: str, timeout_s: float = ASK_S, **params: Any) -> Any:
    """Connect, ask one question, and return the answer. Raises as `open_client` does."""
    async with open_client(where, timeout_s) as client:
        return await client.ask(question, params)
