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
