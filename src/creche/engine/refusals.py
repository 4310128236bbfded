"""Why a submission is not taken: a code for programs, and a sentence for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from creche.engine.options import AT_MOST_ONCE, check_options
from creche.model.ids import made_at
from creche.model.names import MAX_NAME, why_no_queue
from creche.model.retry import RetryPolicy
from creche.wire import messages as m

if TYPE_CHECKING:
    from creche.engine.core import Core
    from creche.engine.job import Job
    from creche.engine.sessions import Session
    from creche.engine.settings import PlaneSettings

STOPPING = ("stopping", "the plane is stopping: submit again when it is back")


def refusal(core: Core, session: Session, message: m.Submit) -> tuple[str, str] | None:
    """Return why a submission cannot be taken, None if it can."""
    if core.is_stopping and not message.is_nested:
        # What a running job submits is a part of what the plane waits for.
        return STOPPING
    if core.journal.failing is not None:
        return "store-full", f"the plane's store takes nothing: {core.journal.failing}"
    if not session.unaccepted.has_room(len(message.payload), core.settings):
        return credit_refusal(core.settings)
    if len(message.payload) > core.settings.payload_bytes:
        limit = core.settings.payload_bytes
        return "too-large", f"a payload may have {limit:,} bytes, not {len(message.payload):,}"
    if not 0 < len(message.task) <= MAX_NAME:
        return "bad-task", f"a task's name has 1 to {MAX_NAME} characters"
    if message.queue is not None:
        wrong = queue_refusal(core, message.queue)
        if wrong is not None:
            return wrong
    if message.flags & m.RESENT and made_at(message.id) <= core.unknown_until:
        # Its tombstone may be gone by now, so nobody can tell whether it ran.
        return "uncertain", "sent again too late to tell whether it was accepted: not run"
    if message.options is None:
        return None
    return (
        check_options(message.options)
        or _limits_refusal(core, message)
        or _times_refusal(core, message, message.options)
        or _retry_refusal(core, message, message.options)
    )


def queue_refusal(core: Core, queue: str) -> tuple[str, str] | None:
    """Return why nothing can go to *queue*; None if it can. One that is there stays: an older store
    may have it."""
    if queue in core.lanes.queues or queue in core.limits.queues:
        return None
    wrong = why_no_queue(queue)
    return None if wrong is None else ("bad-queue", wrong)


def _limits_refusal(core: Core, message: m.Submit) -> tuple[str, str] | None:
    """Return how the limits that a submission says, over those that its task announces,
    contradict each other; None if they do not."""
    said = None if message.options is None else message.options.get("limits")
    if not said:
        return None
    task = core.catalog.get(message.task)
    limits = {**((task or {}).get("limits") or {}), **said}
    soft_s, hard_s = limits.get("soft_timeout_s"), limits.get("timeout_s")
    if soft_s is None or hard_s is None or soft_s < hard_s:
        return None
    announced = " and ".join(
        f"its task says {what}"
        for what in ("soft_timeout", "timeout")
        if said.get(f"{what}_s") is None
    )
    why = f"soft_timeout ({soft_s:g} s) has to come before timeout ({hard_s:g} s)"
    return "bad-limits", f"{why}: {announced}" if announced else why


def _times_refusal(core: Core, message: m.Submit, options: m.Facts) -> tuple[str, str] | None:
    """Return how the moment at which a submission may run is too late for it; None if it is not."""
    delay_s, due_at = options.get("delay_s"), options.get("due_at")
    if not delay_s and not due_at:
        return None
    limits = options.get("limits") or {}
    now = core.now()
    wait_s = delay_s or (due_at or 0.0) - now
    expires_s = limits.get("expires_s")
    whose = ""
    if expires_s is None:
        expires_s, whose = core.catalog.defaults(message.task).expires_s, " as its task says,"
    if expires_s is not None and wait_s >= expires_s:
        why = (
            f"it may run in {wait_s:,.3g} s, and has expired by then: after {expires_s:g} s,{whose}"
        )
        return "bad-limits", why.rstrip(",")
    deadline_at = limits.get("deadline_at")
    if deadline_at is not None and now + wait_s >= deadline_at:
        return "bad-limits", f"it may run in {wait_s:,.3g} s, and its deadline has passed by then"
    return None


def _retry_refusal(core: Core, message: m.Submit, options: m.Facts) -> tuple[str, str] | None:
    """Return why the retries that a submission says are none; None if they are."""
    said = options.get("retry")
    if not said:
        return None
    announced = core.catalog.defaults(message.task)
    delivery = options.get("delivery") or announced.delivery
    if delivery == AT_MOST_ONCE and said.get("retries"):
        return "bad-retry", (
            f"task {message.task!r} runs at most once, and is not tried again: leave retries out"
        )
    if message.task in core.catalog and "retries" not in {**(announced.retry or {}), **said}:
        given = ", ".join(said)
        return "bad-retry", f"{given} without retries: task {message.task!r} says none either"
    delays = {"backoff", "backoff_max"} & said.keys()
    if not delays or (len(delays) == 1 and not announced.retry):
        return None
    policy = RetryPolicy.from_data({**(announced.retry or {}), **said})
    if policy.backoff <= policy.backoff_max:
        return None
    whose = "" if "backoff_max" in said else f" of task {message.task!r}"
    return "bad-retry", (
        f"backoff ({policy.backoff:g} s) is longer than backoff_max ({policy.backoff_max:g} s)"
        f"{whose}: choose a shorter one, or say a longer backoff_max in code (with_options)"
    )


def credit_refusal(settings: PlaneSettings) -> tuple[str, str]:
    """Return how a session is told that it has too much unanswered."""
    most, size = settings.unaccepted, settings.unaccepted_bytes
    return "credit", f"more than {most:,} submissions, or {size:,} bytes of them, wait already"


def watches_refusal(settings: PlaneSettings) -> tuple[str, str]:
    """Return how a session is told that it waits for too many results."""
    return "watches", f"this session waits for {settings.watches:,} results already"


def lanes_refusal(settings: PlaneSettings) -> tuple[str, str]:
    """Return how a session is told that its job would need one lane too many."""
    limit = settings.lanes
    return "lanes", f"this plane has {limit:,} lanes in use: name fewer queues and tasks"


def parent_refusal(settings: PlaneSettings, parent: Job | None) -> tuple[str, str] | None:
    """Return why a running job may not submit one more, None if it may."""
    if parent is None:
        return "scope-closed", "the job that submits this one has ended"
    if parent.children >= settings.max_children:
        return (
            "scope-full",
            f"this job has {parent.children:,} unfinished jobs: wait for some",
        )
    return None
