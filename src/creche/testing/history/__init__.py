"""Whether a job queue has kept its promises, judged by what was seen of it from outside.

A **history** is what clients saw, what bodies did, and what was done to processes, as frozen events
in the order of one clock. `check` reads one and returns what it proves against the queue:

    for violation in check(read_history("recorded/")):
        print(violation)

The checker knows nothing of the engine, and imports no other part of Creche: each rule is a small
function over the history alone. Where a history does not show that a promise was broken, as two
events of one moment may have come in either order, nothing is said. Histories are written with a
`FileRecorder` in each process, or with one `MemoryRecorder` where everything is in one, and read by
`python -m creche.testing.history FILE`. `docs/trust.md` lists the rules and what each needs.
"""

from __future__ import annotations

from collections.abc import Iterable

from creche.testing.history import around, attempts, ends, flow, reasons, submissions
from creche.testing.history.around import FiredTwice, FiredUnasked, NotFired, OutlivedScope
from creche.testing.history.attempts import (
    BegunTwice,
    BeyondDeadline,
    OverTime,
    RanBeyondCancel,
    RanBeyondEnd,
    RanBeyondLease,
    RanTwice,
    RetriedEarly,
    StartedAfterCancel,
    StartedAfterEnd,
    StartedEarly,
    StartedExpired,
    TooManyAttempts,
)
from creche.testing.history.ends import (
    CameBack,
    LateResult,
    NoEnd,
    NoReason,
    TwoEnds,
    TwoResults,
    UnknownResult,
    Vanished,
)
from creche.testing.history.events import (
    Accepted,
    Back,
    Cancel,
    CancelAnswered,
    Ended,
    Event,
    Fired,
    Gone,
    HistoryError,
    Joined,
    Limit,
    Lost,
    OneSlot,
    Paused,
    Quiescent,
    Rate,
    Refused,
    Saw,
    Scheduled,
    ScopeClosed,
    ScopeOpened,
    Severed,
    Started,
    Submit,
    Terms,
    Uncertain,
    Woken,
)
from creche.testing.history.flow import Late, OutOfOrder, OverLimit, OverRate, PriorityInverted
from creche.testing.history.reasons import CancelBelied, ExpiredEarly, FailedEarly, LostUnasked
from creche.testing.history.record import FileRecorder, MemoryRecorder, Recorder, read_history
from creche.testing.history.submissions import (
    Invented,
    KeyIsTwoJobs,
    MetStranger,
    MetTheDead,
    RanAsTwo,
    RanThoughRefused,
    ReplacedStarted,
    TwoLiveJobs,
)
from creche.testing.history.view import Bounds, History
from creche.testing.history.violation import Rule, Violation

__all__ = [
    "RULES",
    "Accepted",
    "Back",
    "BegunTwice",
    "BeyondDeadline",
    "Bounds",
    "CameBack",
    "Cancel",
    "CancelAnswered",
    "CancelBelied",
    "Ended",
    "Event",
    "ExpiredEarly",
    "FailedEarly",
    "FileRecorder",
    "Fired",
    "FiredTwice",
    "FiredUnasked",
    "Gone",
    "History",
    "HistoryError",
    "Invented",
    "Joined",
    "KeyIsTwoJobs",
    "Late",
    "LateResult",
    "Limit",
    "Lost",
    "LostUnasked",
    "MemoryRecorder",
    "MetStranger",
    "MetTheDead",
    "NoEnd",
    "NoReason",
    "NotFired",
    "OneSlot",
    "OutOfOrder",
    "OutlivedScope",
    "OverLimit",
    "OverRate",
    "OverTime",
    "Paused",
    "PriorityInverted",
    "Quiescent",
    "RanAsTwo",
    "RanBeyondCancel",
    "RanBeyondEnd",
    "RanBeyondLease",
    "RanThoughRefused",
    "RanTwice",
    "Rate",
    "Recorder",
    "Refused",
    "ReplacedStarted",
    "RetriedEarly",
    "Rule",
    "Saw",
    "Scheduled",
    "ScopeClosed",
    "ScopeOpened",
    "Severed",
    "Started",
    "StartedAfterCancel",
    "StartedAfterEnd",
    "StartedEarly",
    "StartedExpired",
    "Submit",
    "Terms",
    "TooManyAttempts",
    "TwoEnds",
    "TwoLiveJobs",
    "TwoResults",
    "Uncertain",
    "UnknownResult",
    "Vanished",
    "Violation",
    "Woken",
    "check",
    "read_history",
]

RULES: tuple[Rule, ...] = (
    *submissions.RULES,
    *attempts.RULES,
    *ends.RULES,
    *reasons.RULES,
    *flow.RULES,
    *around.RULES,
)
"""Every rule, each of which refuses with one type of violation."""


def check(events: Iterable[Event], bounds: Bounds | None = None) -> list[Violation]:
    """Return every promise that a history shows to be broken.

    Raises:
        HistoryError: the events are no history: whoever has recorded them is at fault.
    """
    history = History(events, bounds)
    return [violation for rule in RULES for violation in rule(history)]
