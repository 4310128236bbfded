"""A worker that leaves when there is nothing left for it to do."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from creche.errors import PlaneUnreachable, Refused
from creche.peer.submitter import Submitter

logger = logging.getLogger("creche.worker")

LOOK_S = 0.5
"""How often an idle worker asks whether jobs wait for it."""


async def leave_when_empty(
    worker_id: str, submitter: Submitter, is_idle: Callable[[], bool], leave: Callable[[], None]
) -> None:
    """Call *leave* once nothing is run here, and nothing waits that this worker may run. Jobs
    whose time has not come are not waited for, and what other workers run is theirs."""
    while True:
        await trio.sleep(LOOK_S)
        if not is_idle():
            continue
        try:
            ready = (await submitter.ask("work", {"worker": worker_id}))["ready"]
        except (PlaneUnreachable, Refused) as error:
            logger.debug("whether jobs wait is not known: %s", error)
            continue
        if not ready and is_idle():
            leave()
            return
