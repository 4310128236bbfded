"""The messages of `creche.v1`: one record each. `docs/protocol.md` explains them in prose.

On the wire a message is the array ``[kind, *fields]`` in the order written here; a field that may
be left out is ``null``. Kinds below 10 are for both sides, 10 to 29 for whoever submits and asks,
from 40 on for workers. Adding a message or a field here means adding it to `docs/protocol.cddl`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

SUBPROTOCOL = "creche.v1"
VERSIONS = (1,)
"""Protocol versions this side speaks, newest first."""

Facts: TypeAlias = dict[str, Any]

# Flags of a submission.
WATCH = 1
"""Push the result to this session when there is one."""
RESENT = 2
"""This submission was sent before, over a connection that broke."""

STOPPING = "stopping"
"""The code of the refusal that everybody hears who comes while the plane stops."""


class Hello(NamedTuple):
    """The first message of a connection: who is there, and which session goes on."""

    versions: list[int]
    role: str
    session: bytes
    """16 random bytes made by the peer; the same ones resume the session."""
    name: str
    incarnation: bytes
    """Random bytes of this process: a new process under an old name holds nothing of the old."""
    features: list[str]
    facts: Facts
    """Of a worker: queues, slots, held attempts, pid, host. Of others: pid, host."""
    credential: str | None = None
    """A token's word."""

    def __repr__(self) -> str:
        """Say all but the secret."""
        fields = self._replace(credential=None if self.credential is None else "***")
        return f"Hello({', '.join(f'{k}={v!r}' for k, v in fields._asdict().items())})"


class Welcome(NamedTuple):
    """The answer to `Hello`: the session is open."""

    version: int
    epoch: int
    is_resumed: bool
    durability: str
    limits: Facts


class Refusal(NamedTuple):
    """The last message before the plane ends a connection: what was wrong with it."""

    code: str
    why: str


class Goodbye(NamedTuple):
    """The session ends here, and what it held may be given away at once."""

    why: str


class Ping(NamedTuple):
    """Are you reading? It also renews a worker's leases, up to the moment it was sent."""

    n: int


class Pong(NamedTuple):
    """The answer to `Ping`, sent by whoever routes messages, so that it proves they are read."""

    n: int


class Piece(NamedTuple):
    """A part of one message too large for one frame; parts of a stream arrive in order."""

    stream: int
    is_last: bool
    data: bytes


class Submit(NamedTuple):
    """Run this job once. `n` is the session's own number of the submission."""

    n: int
    id: bytes
    task: str
    queue: str | None
    priority: int | None
    payload: bytes
    flags: int
    options: Facts | None

    @property
    def is_nested(self) -> bool:
        """Whether a running job submits it."""
        return self.options is not None and self.options.get("parent") is not None


class Accepted(NamedTuple):
    """These submissions are committed to the store."""

    ns: list[int]


class Declined(NamedTuple):
    """This submission was not taken, and nothing of it was stored."""

    n: int
    code: str
    why: str


class Existing(NamedTuple):
    """This submission made no job, as it is one with a job that was there already. With
    `is_refused` it is not that job either: it is refused because of it."""

    n: int
    id: bytes
    is_refused: bool


class Warned(NamedTuple):
    """This submission will be accepted, but there is something its sender should know."""

    n: int
    code: str
    why: str


class Watch(NamedTuple):
    """Push the outcome of these jobs when they have ended."""

    ids: list[bytes]


class Unwatch(NamedTuple):
    """Nobody here waits for these jobs any more."""

    ids: list[bytes]


class Ended(NamedTuple):
    """A watched job has ended. `outcome` is its encoded result or failure."""

    id: bytes
    state: int
    outcome: bytes | None


class Missing(NamedTuple):
    """A watched job id is unknown (`is_forgotten` false), or its result is no longer kept."""

    id: bytes
    is_forgotten: bool


class Received(NamedTuple):
    """The `Ended` of these jobs have arrived: the plane need not keep their outcomes for it."""

    ids: list[bytes]


class Cancel(NamedTuple):
    """Cancel these jobs. Answered by one `Answer` with a list of states."""

    ref: int
    ids: list[bytes]
    why: str
    is_withdrawal: bool = False
    """Only what was not accepted: a submission that is given up may have been, in that moment."""


class Ask(NamedTuple):
    """A question or a command by name; `Answer` or `AskFailed` carries the same `ref`."""

    ref: int
    question: str
    params: Facts


class Answer(NamedTuple):
    """The answer to the `Ask` or `Cancel` with this `ref`."""

    ref: int
    body: Any


class AskFailed(NamedTuple):
    """There is no answer to the `Ask`, `Cancel` or `Subscribe` with this `ref`, and why."""

    ref: int
    code: str
    why: str


class Subscribe(NamedTuple):
    """Send views of a topic, at most `hz` times a second, until `Unsubscribe`."""

    ref: int
    topic: str
    hz: float


class Unsubscribe(NamedTuple):
    """No more views of the `Subscribe` with this `ref`, please."""

    ref: int


class View(NamedTuple):
    """What a topic looks like now. `rev` grows by one a view; a gap means views were skipped."""

    ref: int
    rev: int
    body: Any


class Announce(NamedTuple):
    """The tasks this worker can run, as declarations (`Task.declaration`)."""

    tasks: list[Facts]


class Capacity(NamedTuple):
    """How many attempts this worker runs at a time, and how many of these slots are lent by
    attempts that wait for their own jobs. 0 slots: nothing new, please."""

    slots: int
    lent: int


class Offer(NamedTuple):
    """Run this attempt: (seq, epoch, attempt) is its fencing token."""

    seq: int
    epoch: int
    attempt: int
    id: bytes
    task: str
    priority: int
    payload: bytes
    options: Facts | None


class Finished(NamedTuple):
    """An attempt's body has left, or was given up: LOST, when its worker had begun and stopped it.
    `n` is the worker's number of the report; sent until settled."""

    n: int
    seq: int
    epoch: int
    attempt: int
    state: int
    outcome: bytes | None
    run_us: int


class TryAgain(NamedTuple):
    """An attempt's body has left, and its job may be tried again: it raised something that is worth
    another try, or has asked for one. The plane decides by the job's retry policy; if there is no
    other try, the job ends as FAILED with this outcome. `n` as in Finished.

    `after_us` is the delay that the body has asked for; None leaves it to the policy. A try that is
    not counted (a snooze) uses up none of the retries."""

    n: int
    seq: int
    epoch: int
    attempt: int
    outcome: bytes
    run_us: int
    after_us: int | None
    is_counted: bool


class Settled(NamedTuple):
    """These reports are on disk, or came too late to count: forget them."""

    ns: list[int]


class HandBack(NamedTuple):
    """These attempts were not begun; give them to somebody else. Not counted as tries."""

    tokens: list[list[int]]


class Stop(NamedTuple):
    """This attempt has lost its right to run: stop it, and report it as finished all the same."""

    seq: int
    epoch: int
    attempt: int
    why: str


class Drain(NamedTuple):
    """Take nothing new, hand back what was not begun, and leave when the rest is done."""

    why: str


class Resize(NamedTuple):
    """Run so many attempts at a time from now on; None: as many as at the start. At 0, take nothing
    new, hand back what was not begun, and stay."""

    slots: int | None


Message: TypeAlias = (
    Hello | Welcome | Refusal | Goodbye | Ping | Pong | Piece
    | Submit | Accepted | Declined | Existing | Warned | Watch | Unwatch | Ended | Missing
    | Received | Cancel | Ask | Answer | AskFailed | Subscribe | Unsubscribe | View
    | Announce | Capacity | Offer | Finished | TryAgain | Settled | HandBack | Stop | Drain
    | Resize
)  # fmt: skip

KIND_OF: dict[type[Any], int] = {
    Hello: 1,
    Welcome: 2,
    Refusal: 3,
    Goodbye: 4,
    Ping: 5,
    Pong: 6,
    Piece: 7,
    Submit: 10,
    Accepted: 11,
    Declined: 12,
    Warned: 13,
    Watch: 14,
    Unwatch: 15,
    Ended: 16,
    Missing: 17,
    Received: 18,
    Cancel: 19,
    Ask: 20,
    Answer: 21,
    AskFailed: 22,
    Subscribe: 23,
    Unsubscribe: 24,
    View: 25,
    Existing: 26,
    Announce: 40,
    Capacity: 41,
    Offer: 50,
    Finished: 51,
    Settled: 52,
    HandBack: 53,
    Stop: 54,
    Drain: 55,
    TryAgain: 56,
    Resize: 57,
}
"""Every message class, and the integer it is on the wire."""

BY_KIND: dict[int, type[Any]] = {kind: cls for cls, kind in KIND_OF.items()}
