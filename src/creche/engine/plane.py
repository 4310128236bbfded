"""The plane: the tree of nurseries, from the outside in.

::

    run_plane
    ├─ core               entered from the outside in, left from the inside out; when its store is
    │   │                 lost it is started again, as after a crash
    │   └─ store
    │       └─ services       journal, timers, upkeep
    │           └─ peers          one nursery a peer
    │               └─ intake         the listener; the first thing to stop
    └─ children           local workers and the page, restarted with back-off

Stopping has three steps: refuse what is new, drain until the time for it is up, cancel.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import trio

from creche.channel.base import Listen
from creche.engine.children import Child, supervise
from creche.engine.conversation import Conversations
from creche.engine.core import Core
from creche.engine.doors import OPEN_DOOR, Door
from creche.engine.scaling import Pool
from creche.engine.settings import PlaneSettings
from creche.engine.views import Views
from creche.errors import CrecheError, ListenError, StoreError
from creche.events import CoreRestarts, Hub, Subscriber, log
from creche.store.base import Store
from creche.wire import messages as m

DEFAULT_SETTINGS = PlaneSettings()

RESTART_S, MAX_RESTART_S = 0.5, 10.0
"""How long a core waits before it starts again after losing its store: at first, and at the most,
while each start fails as well."""

GOODBYE_S = 1.0
"""How long peers have to hang up when they are told that the plane stops."""

CLOSE_S = 5.0
"""How long closing the store may take at the most."""


@dataclass(frozen=True, slots=True)
class Running:
    """What a plane says when it is ready: where it listens, and which epoch this is."""

    addresses: tuple[str, ...]
    epoch: int
    core: Core
    inside: str
    """Where its own children find it."""


class Entrance(NamedTuple):
    """A place to come in, and who is let in there."""

    listen: Listen
    door: Door


async def run_plane(
    make_store: Callable[[], Store],
    listen: Listen,
    settings: PlaneSettings = DEFAULT_SETTINGS,
    *,
    children: Callable[[Running], Sequence[Child]] = lambda running: (),
    pool: Callable[[Running], Pool] | None = None,
    door: Door = OPEN_DOOR,
    inside: Entrance | None = None,
    stop: trio.Event | None = None,
    clock: Callable[[], float] = time.time,
    draw: Callable[[], float] = random.random,
    subscribers: Sequence[Subscriber] = (log,),
    task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a plane until *stop* is set and it has drained, or until it is cancelled.

    Args:
        make_store: makes the store, not yet opened; called for each epoch.
        listen: listens for peers; called for each epoch, and must bind the same address again.
        children: processes to keep running beside the core once it is ready.
        pool: those of which there are as many as are needed.
        door: who is let in.
        inside: another place to come in, for those processes; None: they come in as all others.
        clock: UTC seconds.
        draw: random numbers in [0, 1), for the delays between tries.
        subscribers: told what happens; the log by default.

    Reports `Running` when it has recovered and listens. Cancelling it ends it at once: what was
    accepted is in the store.

    Raises, before it has reported:
        StoreError: the store cannot be opened.
        ListenError: the address cannot be listened on.

    Once it has reported, these are tried again until they are mended or it is stopped.
    """
    failure: CrecheError | None = None
    events = Hub()
    for subscriber in subscribers:
        events.subscribe(subscriber)
    try:
        await _run_epochs(
            make_store,
            Entrance(listen, door),
            inside,
            settings,
            children,
            pool,
            trio.Event() if stop is None else stop,
            clock,
            draw,
            events,
            task_status,
        )
    except* (StoreError, ListenError) as group:
        failure = _first(group)
    if failure is not None:
        raise failure


async def _run_epochs(
    make_store: Callable[[], Store],
    front: Entrance,
    inside: Entrance | None,
    settings: PlaneSettings,
    children: Callable[[Running], Sequence[Child]],
    pool: Callable[[Running], Pool] | None,
    stop: trio.Event,
    clock: Callable[[], float],
    draw: Callable[[], float],
    events: Hub,
    task_status: trio.TaskStatus[Running],
) -> None:
    """Run core after core, each until its store is lost; children run beside them all."""
    reported = False
    async with trio.open_nursery() as beside:

        def report(running: Running) -> None:
            nonlocal reported
            if not reported:
                reported = True
                for child in children(running):
                    beside.start_soon(supervise, child)
                if pool is not None:
                    beside.start_soon(pool(running).run, lambda: core)
                task_status.started(running)

        pause_s = RESTART_S
        while True:
            core = Core(make_store(), settings, clock=clock, draw=draw, events=events)
            try:
                await _run_core(core, front, inside, stop, report)
                break
            except* (StoreError, ListenError) as lost:
                # A store that is gone, or full, or held by a process of ours that has yet to end.
                if not reported:
                    raise
                events.emit(CoreRestarts(str(_first(lost))))
            pause_s = RESTART_S if core.is_ready else min(2 * pause_s, MAX_RESTART_S)
            with trio.move_on_after(pause_s):
                await stop.wait()
            if stop.is_set():
                break
        # The core has ended, or there is none, and so do the children.
        beside.cancel_scope.cancel()


async def _run_core(
    core: Core,
    front: Entrance,
    inside: Entrance | None,
    stop: trio.Event,
    report: Callable[[Running], None],
) -> None:
    """Run one epoch: enter from the outside in, leave from the inside out."""
    views = Views(core)
    try:
        await core.recover()
        async with trio.open_nursery() as services:
            await services.start(core.run_services)
            async with trio.open_nursery() as peers:
                async with trio.open_nursery() as intake:
                    addresses: list[tuple[str, ...]] = []
                    for listen, door in filter(None, (front, inside)):
                        conversations = Conversations(core, views, door)
                        services.start_soon(conversations.keep_door)
                        addresses.append(
                            await intake.start(
                                partial(listen, conversations.converse, handler_nursery=peers)
                            )
                        )
                    core.is_ready = True
                    report(Running(addresses[0], core.epoch, core, addresses[-1][0]))
                    await stop.wait()
                    # Refuse what is new. The listener stays for those who resume.
                    core.is_stopping = True
                    core.note()
                    await _drain(core)
                    intake.cancel_scope.cancel()
                await _say_goodbye(core)
                peers.cancel_scope.cancel()
            with trio.move_on_after(CLOSE_S):
                await core.journal.wait_drained()
            services.cancel_scope.cancel()
    finally:
        with trio.move_on_after(CLOSE_S, shield=True):
            await core.store.aclose()


async def _drain(core: Core) -> None:
    """Wait until no attempt is out any more, for the drain's time at the most."""
    with trio.move_on_after(core.settings.drain_s):
        await core.wait_until(lambda: not core.leases.are_out)
    # What ended last is on its way to the disk. Who ran it and who waits for it hear of that before
    # they are told goodbye.
    with trio.move_on_after(CLOSE_S):
        await core.journal.wait_drained()


async def _say_goodbye(core: Core) -> None:
    """Tell the peers that the plane goes, so that they need not find out; they hang up."""
    for session in core.sessions:
        session.post(m.Goodbye("the plane stops"))
    with trio.move_on_after(GOODBYE_S):
        await core.wait_until(lambda: not any(s.is_connected for s in core.sessions))


def _first(group: BaseExceptionGroup[CrecheError]) -> CrecheError:
    """Return the first error in a group of groups."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
