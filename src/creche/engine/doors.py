"""Who is let in: what a peer shows in its Hello, and what it may do then.

A plane has a door for peers, which is open to all or wants tokens, and perhaps one for the
processes that it has started itself. What is wanted may change while it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import trio

from creche.errors import ChannelBroken, CrecheError, Refused
from creche.model.access import Token, owner_of
from creche.wire.access import EVERYTHING, PEERS, Access, access_of
from creche.wire.session import Role

NO_CREDENTIAL = "credential"
FORBIDDEN = "forbidden"

LOOK_S = 1.0
"""How often it is looked whether the time of a token that somebody uses is over."""


class Door(Protocol):
    """Lets peers in, or not."""

    def admit(self, credential: str | None, role: Role, now: float) -> Access:
        """Return what a peer may do that introduces itself with *credential* as *role*.

        Raises:
            Refused: it may not come in.
        """
        ...

    def why_out(self, access: Access, now: float) -> CrecheError | None:
        """Return why the connection of a peer that was let in ends now; None while it may stay."""
        ...

    async def wait_changed(self) -> None:
        """Wait until there may be somebody who has to leave."""
        ...


class OpenDoor:
    """Everybody comes in and may do everything."""

    def admit(self, credential: str | None, role: Role, now: float) -> Access:
        """See `Door.admit`."""
        return EVERYTHING

    def why_out(self, access: Access, now: float) -> CrecheError | None:
        """See `Door.why_out`."""
        return None

    async def wait_changed(self) -> None:
        """Never return."""
        await trio.sleep_forever()


class TokenDoor:
    """Who has one of *tokens* comes in, and may do what that is for."""

    def __init__(self, tokens: Mapping[str, Token]) -> None:
        self._tokens = tokens
        self._changed = trio.Event()

    def change(self, tokens: Mapping[str, Token]) -> None:
        """Want these from now on: who came in with one that is not among them is sent away."""
        self._tokens = tokens
        self._changed.set()
        self._changed = trio.Event()

    def admit(self, credential: str | None, role: Role, now: float) -> Access:
        """See `Door.admit`."""
        if credential is None:
            raise Refused(
                NO_CREDENTIAL,
                "this plane wants a token, and none was shown: CRECHE_TOKEN or --token-file has it",
            )
        token = owner_of(credential, self._tokens)
        if token is None:
            raise Refused(NO_CREDENTIAL, "the plane does not know this token (any more)")
        if token.is_over(now):
            raise Refused(NO_CREDENTIAL, f"the time of token {token.id} is over")
        access = access_of(token)
        if not access.may(PEERS[role]):
            raise Refused(FORBIDDEN, access.why_not(f"being a {role.value}", PEERS[role]))
        return access

    def why_out(self, access: Access, now: float) -> CrecheError | None:
        """See `Door.why_out`."""
        token = access.token
        if token is None:
            return None
        kept = self._tokens.get(token.id)
        if kept is None or kept.digest != token.digest:
            return Refused(NO_CREDENTIAL, f"token {token.id} was taken away")
        if kept.is_over(now):
            return Refused(NO_CREDENTIAL, f"the time of token {token.id} is over")
        # It may do other things from now on, and finds out which by coming in again.
        return None if kept == token else ChannelBroken(f"token {token.id} was changed")

    async def wait_changed(self) -> None:
        """See `Door.wait_changed`."""
        changed = self._changed
        if any(token.expires_at is not None for token in self._tokens.values()):
            with trio.move_on_after(LOOK_S):
                await changed.wait()
        else:
            await changed.wait()


OPEN_DOOR = OpenDoor()
