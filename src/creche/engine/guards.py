"""Who may not do everything is asked before each thing that it might not do.

The guards stand in that peer's own table of routes: who may do everything passes none, and nobody
passes one for what its token is for anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from creche.engine.doors import FORBIDDEN
from creche.engine.sessions import Session
from creche.errors import Refused
from creche.wire import messages as m
from creche.wire.access import FREELY, MESSAGES, QUESTIONS, TOPICS, Access

if TYPE_CHECKING:
    from creche.engine.core import Core

Route: TypeAlias = Callable[[Session, Any], None]
Routes: TypeAlias = Mapping[type[Any], Route]


def guarded(routes: Routes, access: Access, core: Core) -> Routes:
    """Return the routes for a peer that may do what *access* says."""
    if access.is_full:
        return routes
    found = dict(routes)
    for kind in routes:
        if kind is not m.Submit and not access.may(MESSAGES[kind]):
            found[kind] = _never(kind, access)
    if access.queues is not None or not access.may(FREELY):
        found[m.Submit] = _submit(found[m.Submit], access, core)
    found[m.Ask] = _ask(found[m.Ask], access)
    found[m.Subscribe] = _subscribe(found[m.Subscribe], access)
    return found


def check_queues(access: Access, queues: tuple[str, ...]) -> None:
    """Refuse a worker that listens where its token is not for.

    Raises:
        Refused: it does.
    """
    for queue in queues:
        if not access.may_use(queue):
            raise Refused(FORBIDDEN, access.why_no_queue(queue))


def why_name_taken(
    core: Core, session: Session, older: Session | None, access: Access
) -> str | None:
    """Return why a new worker *session* cannot have its name, None if it can. Whoever takes a name
    over ends what its worker holds: so that takes a token which is for all of its queues, or the
    very same one. The same incarnation, which nobody else is told, is the same process.

    *older* is who has the name now; workers that have yet to come back after a restart of the plane
    are known by the jobs that they held.
    """
    name = session.name
    if older is not None and older.incarnation != session.incarnation:
        if older.is_connected:
            return f"a worker named {name!r} is connected already"
        is_same = access.is_of(older.access.token)
        if not (is_same or all(map(access.may_use, older.queues))):
            return _why_awaited(name, access)
    if all(map(access.may_use, core.leases.queues_of_older(session))):
        return None
    return _why_awaited(name, access)


def _why_awaited(name: str, access: Access) -> str:
    return (
        f"a worker named {name!r} may yet come back, and {access.who} is not for all of its "
        "queues: choose another name"
    )


def _never(kind: type[Any], access: Access) -> Route:
    what = "cancelling" if kind is m.Cancel else kind.__name__
    why = access.why_not(what, MESSAGES[kind])

    def refuse(session: Session, message: Any) -> None:
        if kind is m.Cancel:
            session.post(m.AskFailed(message.ref, FORBIDDEN, why))
        else:
            raise Refused(FORBIDDEN, why)

    return refuse


def _ask(route: Route, access: Access) -> Route:
    def ask(session: Session, message: m.Ask) -> None:
        allowed = QUESTIONS.get(message.question)
        if message.question == "work" and not access.may(QUESTIONS["workers"]):
            # What it is told of no other worker includes that there is one.
            worker = message.params.get("worker")
            is_own = session.is_worker and worker == session.name
            if isinstance(worker, str) and not is_own:
                why = access.why_not("the work of another worker", QUESTIONS["workers"])
                session.post(m.AskFailed(message.ref, FORBIDDEN, why))
                return
        if allowed is None or access.may(allowed):
            route(session, message)
            return
        why = access.why_not(message.question, allowed)
        session.post(m.AskFailed(message.ref, FORBIDDEN, why))

    return ask


def _subscribe(route: Route, access: Access) -> Route:
    def subscribe(session: Session, message: m.Subscribe) -> None:
        allowed = TOPICS.get(message.topic)
        if allowed is None or access.may(allowed):
            route(session, message)
            return
        why = access.why_not(f"topic {message.topic}", allowed)
        session.post(m.AskFailed(message.ref, FORBIDDEN, why))

    return subscribe


def _submit(route: Route, access: Access, core: Core) -> Route:
    def submit(session: Session, message: m.Submit) -> None:
        why = _why_no_submission(session, message, access, core)
        if why is None:
            route(session, message)
        else:
            session.post(m.Declined(message.n, FORBIDDEN, why))

    return submit


def _why_no_submission(
    session: Session, message: m.Submit, access: Access, core: Core
) -> str | None:
    may = access.may(FREELY) or (access.may(MESSAGES[m.Submit]) and _is_own(session, message))
    if not may:
        return access.why_not("submitting", FREELY)
    if access.queues is None:
        return None
    queue = message.queue
    if queue is None and message.task in core.catalog:
        queue = core.catalog.queue_of(message.task)
    if queue is None:
        # Where it goes is said by whoever announces the task, and that has yet to come.
        return f"no worker has announced task {message.task!r:.80} yet: name the job's queue"
    return None if access.may_use(queue) else access.why_no_queue(queue)


def _is_own(session: Session, message: m.Submit) -> bool:
    """Whether a job that this very worker runs submits it."""
    parent = message.options.get("parent") if message.options is not None else None
    if not isinstance(parent, list) or len(parent) != 3 or type(parent[0]) is not int:
        return False
    job = session.leased.get(parent[0])
    return job is not None and list(job.token) == parent
