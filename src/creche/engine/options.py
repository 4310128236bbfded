"""What a job is submitted with beside its payload: checked as it comes, and read from the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from creche.errors import RemoteProtocolError
from creche.model.flow import MAX_KEY_LENGTH
from creche.model.headers import checked_headers
from creche.model.limits import MAX_MOMENT, TimeLimits
from creche.model.retry import MAX_DELAY_S, RetryPolicy
from creche.wire import messages as m
from creche.wire.payload import decode_value

if TYPE_CHECKING:
    from creche.engine.job import Job

_OPTIONS = frozenset(
    {
        "delay_s",
        "delivery",
        "due_at",
        "headers",
        "idempotency_key",
        "keys",
        "limits",
        "parent",
        "retry",
        "unique",
    }
)
AT_MOST_ONCE = "at-most-once"
_DELIVERIES = ("at-least-once", AT_MOST_ONCE)

CANCELLED = "cancelled"
"""Why a job was cancelled, kept with what was said of it until its body has left."""

_CHECKED = ("delivery", "headers", "keys", "limits", "parent", "retry")
"""What is checked of stored options: whoever uses them relies on it. The others are looked at once,
when they are new."""


def check_options(options: m.Facts) -> tuple[str, str] | None:
    """Return what is wrong with a submission's options, as a code and a sentence, or None."""
    unknown = options.keys() - _OPTIONS
    if unknown:
        return "unknown-option", f"this plane does not know the option {min(unknown)!r}"
    delivery = options.get("delivery")
    if delivery is not None and delivery not in _DELIVERIES:
        return "bad-delivery", f"{delivery!r} is no delivery: use one of {', '.join(_DELIVERIES)}"
    if options.get("retry") is not None:
        try:
            RetryPolicy.from_data(options["retry"])
        except ValueError as error:
            return "bad-retry", str(error)
    try:
        limits = limits_of(options)
    except ValueError as error:
        return "bad-limits", str(error)
    if options.get("headers") is not None:
        try:
            checked_headers(options["headers"])
        except ValueError as error:
            return "bad-headers", str(error)
    for name, most in (("delay_s", MAX_DELAY_S), ("due_at", MAX_MOMENT)):
        value = options.get(name)
        if value is not None and not (type(value) in (int, float) and 0 <= value <= most):
            return "bad-delay", f"{name} is a number of seconds from 0 to {most:,.0f}"
    if options.get("delay_s") is not None and options.get("due_at") is not None:
        return "bad-delay", "delay_s and due_at both say when: give one of them"
    if limits is not None and _is_in_vain(limits, options):
        return "bad-limits", "it would expire before its time has come: it could never run"
    if not are_keys(options.get("keys")):
        return "bad-key", f"keys are two texts of up to {MAX_KEY_LENGTH} printable characters"
    parent = options.get("parent")
    if parent is not None and not (
        isinstance(parent, list) and len(parent) == 3 and all(type(n) is int for n in parent)
    ):
        return "bad-parent", "a parent is [seq, epoch, attempt]"
    return None


def are_keys(keys: object) -> bool:
    """Whether *keys* may be what tells a job apart for its task's limit and rate."""
    return keys is None or (
        isinstance(keys, list)
        and len(keys) == 2
        and all(isinstance(k, str) and len(k) <= MAX_KEY_LENGTH and k.isprintable() for k in keys)
    )


def _is_in_vain(limits: TimeLimits, options: m.Facts) -> bool:
    """Whether a job is delayed to a moment at which it has expired."""
    delay_s, due_at = options.get("delay_s"), options.get("due_at")
    if delay_s and limits.expires_s is not None and delay_s >= limits.expires_s:
        return True
    return bool(due_at and limits.deadline_at is not None and due_at >= limits.deadline_at)


def due_at(options: m.Facts, now: float) -> float | None:
    """Return until when a job is delayed, None if its time has come."""
    delay_s: float | None = options.get("delay_s")
    moment: float | None = options.get("due_at") if delay_s is None else now + delay_s
    return None if moment is None or moment <= now else moment


def limits_of(options: m.Facts) -> TimeLimits | None:
    """Return the time limits that a submission says, if any.

    Raises:
        ValueError: they are no time limits, or contradict each other.
    """
    limits = options.get("limits")
    return None if limits is None else TimeLimits.from_data(limits)


def stored_options(options: bytes | None) -> m.Facts:
    """Return what a job was submitted with, as the store has it.

    Raises:
        ValueError: it is damaged; the sentence says what is wrong.
    """
    if options is None:
        return {}
    try:
        said = decode_value(options)
    except RemoteProtocolError as error:
        raise ValueError(f"what it was submitted with is damaged: {error}") from None
    if not isinstance(said, dict):
        raise ValueError("what it was submitted with is damaged: it is no map")
    wrong = check_options({name: said[name] for name in _CHECKED if name in said})
    if wrong is not None:
        raise ValueError(f"what it was submitted with is damaged: {wrong[1]}")
    return said


def restore_options(job: Job) -> None:
    """Set what a job's stored options say of it.

    Raises:
        ValueError: they are damaged; nothing was set.
    """
    if job.options is not None:
        options = stored_options(job.options)
        parent = options.get("parent")
        job.parent = None if parent is None else int(parent[0])
        job.delivery = options.get("delivery")
        job.limits = limits_of(options)
        job.headers = options.get("headers")
        why = options.get(CANCELLED)
        job.cancelled = why if isinstance(why, str) else None


def headers_in(options: bytes | None) -> m.Facts:
    """Return the headers that a job was submitted with, as the store has its options; none if they
    are damaged."""
    try:
        return stored_options(options).get("headers") or {}
    except ValueError:
        return {}
