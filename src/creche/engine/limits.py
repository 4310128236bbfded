"""Limits: how many jobs of a queue, or of a task and a key, run at a time, and how often they
begin.

Each limit is a **gate**. A queue whose gate is shut, or that is paused, is not taken from. A job of
a task whose gate is shut waits in a lane of its own beside its level (parked), with those that have
to pass the same gates; when there is room such a lane is looked into again. So what may not run
blocks nobody, and costs a look only when it may.

Jobs that are leased count as running: also after a restart of the plane, and while their worker is
away."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from creche.engine.gates import Gate, Slots, Tokens
from creche.engine.job import Job
from creche.engine.lane import Lane
from creche.engine.parks import park_by_limit, parts_of_park
from creche.errors import RemoteProtocolError
from creche.events import QueueSet
from creche.model.flow import Flow, Key, QueueSettings
from creche.model.job import JobState, check_move
from creche.store.base import QueueRow
from creche.wire import messages as m
from creche.wire.payload import decode_call, decode_value, encode_value

if TYPE_CHECKING:
    from creche.engine.core import Core

logger = logging.getLogger("creche.plane")

MAX_GATES = 100_000
"""Gates in memory: of a rate by a key, one for each key whose tokens are not all back. A job whose
gate finds no room waits like one that is delayed."""

SWEEP_AT = 1000
"""As many gates are no matter, whether they are idle or not."""

FULL_S = 1.0
"""How long such a job waits before it is looked at again."""

SHARE = 2
"""Lanes of jobs that wait for limits are at most one in so many, so that there are some for
others."""

MAX_LOOK_BYTES = 64 * 1024
"""Arguments beyond that are not looked into for a key that their submitter did not tell: they would
hold up everybody else. They share the key of calls that have nothing there."""

Keys = tuple[str, str]
"""What tells the jobs of a task apart: for its limit, and for its rate."""

NO_KEYS: Keys = ("", "")


class Limits:
    """The gates of a plane, and what is said of its queues."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._flows: dict[str, Flow] = {}
        """By task, for those that have limits."""
        self._gates: dict[tuple[str, str, str], Gate] = {}
        """By kind, task and key."""
        self._sweep_at = min(SWEEP_AT, MAX_GATES)
        """How many gates there have to be before those that are idle are let go of."""
        self._swept_at = -math.inf
        self._with_room: set[Gate] = set()
        """Those that may have room for lanes that wait for it."""
        self._of_queues: dict[str, tuple[Gate, ...]] = {}
        self._told: tuple[m.Submit, Keys] | None = None
        """The submission whose keys were asked for last, and these."""
        self.queues: dict[str, QueueSettings] = {}
        """What is said of queues; of the others nothing is."""

    @property
    def any(self) -> bool:
        """Whether any task has limits."""
        return bool(self._flows)

    # --- what is said ---------------------------------------------------------------------------

    def restore(self, rows: Iterable[QueueRow]) -> None:
        """Learn what was said of queues, and what tasks have announced."""
        for row in rows:
            if row.settings is not None:
                settings = _settings(row.name, row.settings)
                self.queues[row.name] = settings
                self._make_queue_gates(row.name, settings)
        self.announced(declaration["name"] for declaration in self._core.catalog)

    def set_queue(self, queue: str, settings: QueueSettings) -> None:
        """Say something else of a queue from now on. Nothing that runs is stopped."""
        core = self._core
        if settings:
            self.queues[queue] = settings
        else:
            self.queues.pop(queue, None)
        row = QueueRow(queue, encode_value(settings.as_data()) if settings else None)
        core.journal.queue(row)
        for gate in self._of_queues.get(queue, ()):
            gate.let_all_in()
        self._make_queue_gates(queue, settings)
        for job in self._running():
            if job.lane.queue == queue:
                self._count_again(job)
        self._look_at_queue(queue)
        core.events.emit(
            QueueSet(queue, settings.is_paused, settings.limit, settings.as_shown()["rate"])
        )
        core.note()
        core.dispatch.run()
        core.journal.wake()

    def announced(self, tasks: Iterable[str]) -> None:
        """Tasks were announced: their limits may be others than before."""
        changed = {task for task in tasks if self._core.catalog.flow(task) != self._flows.get(task)}
        if not changed:
            return
        for task in changed:
            flow = self._core.catalog.flow(task)
            self._drop_gates(task, flow or Flow())
            if flow is None:
                self._flows.pop(task, None)
            else:
                self._flows[task] = flow
        self._told = None
        # Those on their way to the disk, too.
        for job in (*self._core.by_seq.values(), *self._core.by_id.values()):
            if job.task in changed:
                job.keys = None
        for job in self._running():
            if job.task in changed:
                self._count_again(job)

    def _drop_gates(self, task: str, flow: Flow) -> None:
        """Let go of a task's gates, but of those whose rate is as it was."""
        before = self._flows.get(task, Flow())
        is_same_rate = (flow.rate, flow.rate_key) == (before.rate, before.rate_key)
        for name, gate in [(n, g) for n, g in self._gates.items() if n[1] == task]:
            gate.let_all_in()
            self._with_room.discard(gate)
            if not (is_same_rate and isinstance(gate, Tokens)):
                del self._gates[name]

    def _make_queue_gates(self, queue: str, settings: QueueSettings) -> None:
        gates: list[Gate] = []
        if settings.limit is not None:
            gates.append(Slots(settings.limit, queue))
        if settings.rate is not None:
            made = Tokens(settings.rate, trio.current_time, queue)
            before = (g for g in self._of_queues.get(queue, ()) if isinstance(g, Tokens))
            gates.append(next((g for g in before if g.bucket.rate == settings.rate), made))
        if gates:
            self._of_queues[queue] = tuple(gates)
        else:
            self._of_queues.pop(queue, None)
        self._look_at_queue(queue)

    def _running(self) -> list[Job]:
        running = (JobState.RUNNING, JobState.CANCELLING)
        return [job for job in self._core.by_seq.values() if job.state in running]

    def _count_again(self, job: Job) -> None:
        """Its gates have changed while it ran: it has begun, and takes no token for that."""
        before, job.gates = job.gates, self._gates_of(job)
        for gate in before:
            if gate not in job.gates:
                self._leave(job, gate)
        for gate in job.gates:
            if isinstance(gate, Slots):
                gate.enter(job)

    # --- a job's way ----------------------------------------------------------------------------

    def admit(self, job: Job) -> bool:
        """Whether a job that was taken from its lane may run now; if not, it was set aside. No
        checkpoint until it is leased."""
        flow = self._flows.get(job.task)
        if flow is None:
            return True
        gates = self._gates_of_task(job, flow)
        if gates is None:
            self._delay(job)
            return False
        for gate in gates:
            if not gate.room:
                self._set_aside(job, gate)
                return False
        job.gates = gates
        return True

    def hold(self, job: Job, *, is_new: bool = True) -> None:
        """A job has been leased: it counts from now on. One that is not *is_new* was leased when
        the last epoch ended, and takes no token now."""
        if not (self._flows or self._of_queues):
            return
        # What has let it pass counts, and no other: such a gate may not be found again.
        job.gates = self._gates_of(job, job.gates)
        job.has_tokens = is_new
        for gate in job.gates:
            if is_new or isinstance(gate, Slots):
                gate.enter(job)
        if is_new and job.gates and self._core.settings.fairness is not None:
            self._core.lanes.passed_gates(job)
        if job.lane.queue in self._of_queues:
            self._look_at_queue(job.lane.queue)

    def free(self, job: Job) -> None:
        """The attempt of a job is over: it counts no more."""
        gates, job.gates = job.gates, ()
        for gate in gates:
            self._leave(job, gate)

    def _leave(self, job: Job, gate: Gate) -> None:
        gate.leave(job)
        if gate.has_waiters:
            self._with_room.add(gate)
        # Its lane may be one of another queue by now.
        if gate.queue is not None and gate.queue in self._core.lanes.shut_queues:
            self._look_at_queue(gate.queue)

    def give_back(self, job: Job) -> None:
        """It was handed back before it began: the tokens that it has taken are there again."""
        if job.has_tokens:
            job.has_tokens = False
            for gate in job.gates:
                gate.give_back(job)

    def let_in(self) -> None:
        """Have those lanes looked into again for which there is room."""
        for gate in list(self._with_room):
            gate.let_in(self._shut_gate)
            if not (gate.room and gate.has_waiters):
                self._with_room.discard(gate)
                self._watch(gate, partial(self._with_room.add, gate))

    def keys_of(self, message: m.Submit) -> Keys | None:
        """Return what tells a new job apart, None if its task has no limits. Where it waits, and
        what it is to count against, is asked one after the other: its arguments are read once."""
        flow = self._flows.get(message.task)
        if flow is None:
            return None
        if not flow.has_key:
            return NO_KEYS
        if self._told is not None and self._told[0] is message:
            return self._told[1]
        keys = _keys(flow, message.payload, message.options)
        self._told = (message, keys)
        return keys

    def lane_of(self, message: m.Submit, lane: Lane) -> Lane:
        """Return where a new job waits that would wait in *lane*: if others already wait for its
        gates, with them, so that it need not be moved later."""
        keys = self.keys_of(message)
        if keys is None:
            return lane
        park = park_by_limit(message.task, keys)
        beside = self._core.lanes.by_key.get((lane.queue, lane.priority, park))
        return beside if beside is not None and beside.is_shut else lane

    def refusal(self, message: m.Submit) -> tuple[str, str] | None:
        """Return why a submission cannot be counted against its task's limits, None if it can."""
        flow = self._flows.get(message.task)
        if flow is None or not flow.needs_code:
            return None
        if message.options is not None and message.options.get("keys") is not None:
            return None
        why = (
            f"task {message.task!r} computes its key in code, which a submission by name does not "
            "have: submit the task object, or let key= name a parameter"
        )
        return "bad-key", why

    def shut_gates_of_queue(self, queue: str) -> list[Gate]:
        """Return the gates of *queue* that have no room now."""
        return [gate for gate in self._of_queues.get(queue, ()) if not gate.room]

    def shut_gates_of_task(self, task: str, keys: Keys) -> list[tuple[Gate, str]]:
        """Return the gates of *task* for jobs with these keys that have no room now, each with its
        key. None is made."""
        names = zip(("limit", "rate"), keys, strict=True)
        found = [(self._gates.get((kind, task, key)), key) for kind, key in names]
        return [(gate, key) for gate, key in found if gate is not None and not gate.room]

    # --- gates ----------------------------------------------------------------------------------

    def _gates_of(self, job: Job, passed: tuple[Gate, ...] = ()) -> tuple[Gate, ...]:
        """Return the gates of a job that is leased; *passed* are those of its task, if known."""
        gates = self._of_queues.get(job.lane.queue, ())
        flow = self._flows.get(job.task)
        if flow is None:
            return gates
        return (*gates, *(passed or self._gates_of_task(job, flow) or ()))

    def _gates_of_task(self, job: Job, flow: Flow) -> tuple[Gate, ...] | None:
        """Return the gates of a job's task, made when first used; None when there are too many."""
        if job.keys is None:
            is_told = flow.has_key and job.options is not None
            options = decode_value(job.options or b"") if is_told else None
            job.keys = _keys(flow, job.payload, options)
        return self._gates_for(job.task, flow, job.keys)

    def _gates_for(self, task: str, flow: Flow, keys: Keys) -> tuple[Gate, ...] | None:
        found: list[Gate] = []
        for kind, key in zip(("limit", "rate"), keys, strict=True):
            if getattr(flow, kind) is None:
                continue
            name = (kind, task, key)
            gate = self._gates.get(name)
            if gate is None:
                if len(self._gates) >= self._sweep_at and not self._sweep(found):
                    return None
                gate = self._gates[name] = _make_gate(kind, flow)
            found.append(gate)
        return tuple(found)

    def _sweep(self, kept: Sequence[Gate]) -> bool:
        """Let go of idle gates but those *kept*: as much work as so many new ones were. Return
        whether there may be one more."""
        now = trio.current_time()
        if len(self._gates) < MAX_GATES or now >= self._swept_at + FULL_S:
            self._swept_at = now
            gates = self._gates.items()
            self._gates = {n: gate for n, gate in gates if gate in kept or not gate.is_idle}
            self._sweep_at = min(max(SWEEP_AT, 2 * len(self._gates)), MAX_GATES)
        return len(self._gates) < MAX_GATES

    def _shut_gate(self, lane: Lane) -> Gate | None:
        """Return a gate that the jobs of a lane have to wait for, which is watched then."""
        task, keys = parts_of_park(lane.park)
        flow = self._flows.get(task)
        gates = None if flow is None else self._gates_for(task, flow, keys)
        for gate in gates or ():
            if not gate.room:
                self._watch(gate, partial(self._with_room.add, gate))
                return gate
        return None

    def _watch(self, gate: Gate, ring: Callable[[], object]) -> None:
        """Have *ring* called, and jobs dispatched, when a gate has room by itself."""
        if gate.timer is not None or gate.room or gate.next_at == math.inf:
            return

        def on_time() -> None:
            gate.timer = None
            ring()
            self._core.dispatch.run()
            self._core.journal.wake()

        gate.timer = self._core.timers.call_at(gate.next_at, on_time)

    def _look_at_queue(self, queue: str) -> None:
        """Have a queue taken from, or not: it is paused, or its gates have no room."""
        shut = self._core.lanes.shut_queues
        gates = self._of_queues.get(queue, ())
        settings = self.queues.get(queue)
        if (settings is not None and settings.is_paused) or not all(gate.room for gate in gates):
            shut.add(queue)
            for gate in gates:
                self._watch(gate, partial(self._look_at_queue, queue))
        else:
            shut.discard(queue)

    # --- setting aside --------------------------------------------------------------------------

    def _set_aside(self, job: Job, gate: Gate) -> None:
        """A job has to wait for a gate: it goes to the lane of those that pass the same ones."""
        core, lane = self._core, job.lane
        assert job.keys is not None
        park = park_by_limit(job.task, job.keys)
        if lane.park == park:
            lane.put_back(job)  # where it was: there is nothing to be written
        else:
            key = (lane.queue, lane.priority, park)
            if not core.submissions.places.may_have(key, core.settings.lanes // SHARE):
                self._delay(job)
                return
            lane = core.lanes.get(key, (lane.queue, lane.priority))
            core.dispatch.park(job, lane)
        gate.wait(lane)
        if gate.room:
            self._with_room.add(gate)
        else:
            self._watch(gate, partial(self._with_room.add, gate))

    def _delay(self, job: Job) -> None:
        """There is no room for one more gate or lane: look at the job again after a while."""
        core = self._core
        core.dispatch.note_parked()
        job.state = check_move(job.state, JobState.DELAYED)
        job.due_at = core.now() + FULL_S
        job.is_returning = True
        core.delays.enter(job)
        core.journal.requeue(job)


def _settings(queue: str, settings: bytes) -> QueueSettings:
    """Return what the store has of a queue's settings; a paused queue, if they are damaged: what
    may run there is not known then."""
    try:
        return QueueSettings.from_data(decode_value(settings))
    except (RemoteProtocolError, ValueError) as error:
        logger.error(
            "what was said of queue %r cannot be read: it is paused until it is resumed: %s",
            *(queue, error),
        )
        return QueueSettings(is_paused=True)


def _make_gate(kind: str, flow: Flow) -> Gate:
    if kind == "limit":
        assert flow.limit is not None
        return Slots(flow.limit)
    assert flow.rate is not None
    return Tokens(flow.rate, trio.current_time)


def _keys(flow: Flow, payload: bytes, options: Mapping[str, Any] | None) -> Keys:
    """Return the keys of a job: those that its submitter told, else what its arguments say."""
    if not flow.has_key:
        return NO_KEYS
    told: Sequence[str] | None = None if options is None else options.get("keys")
    if told is not None:
        return (told[0] if flow.key else "", told[1] if flow.rate_key else "")
    if len(payload) > MAX_LOOK_BYTES:
        return NO_KEYS
    try:
        args, kwargs = decode_call(payload)
    except RemoteProtocolError:
        return NO_KEYS  # its worker will say so
    return (_key(flow.key, args, kwargs), _key(flow.rate_key, args, kwargs))


def _key(key: Key | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    if key is None or key.is_code:
        return ""
    try:
        return key.of(args, kwargs)
    except ValueError:
        return ""
