"""Schedules in a run of the fuzz: what is done to them, and what must hold of their firings.

A firing is a stored job that nobody has submitted. Whose it is follows from its arguments, which no
two schedules share, and its moment has to be one that the rule names, which is counted here and not
asked of the plane."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.fuzz.truth import Known

from creche.engine.schedule import Standing, Work
from creche.model.ids import made_at, new_id
from creche.model.schedule import LATE_S, MOST_COUNTED, firing_draw, firing_id
from creche.store.base import Batch, NewJob, Recovery
from creche.wire import messages as m
from creche.wire.payload import decode_value, encode_call

if TYPE_CHECKING:
    from tests.fuzz.peers import Client
    from tests.fuzz.world import World

MOST = 6
"""Schedules of a run that are made by clients."""

DECLARED = "ticking"
"""The task that declares a schedule itself."""

DECLARATION: m.Facts = {
    "name": DECLARED,
    "schedule": {
        "rule": {"every": 4.0, "count": 8, "overlap": "queue"},
        "payload": encode_call([0, DECLARED, "a"], {}).hex(),
    },
}


@dataclass
class Row:
    """A schedule as it is on disk."""

    data: bytes
    rule: m.Facts
    made_at: float
    paused_at: float | None
    standing: Standing

    @classmethod
    def read(cls, data: bytes) -> Row:
        whole = decode_value(data)
        return cls(
            data, whole["rule"], whole["made_at"], whole["paused_at"], Standing(*whole["standing"])
        )

    def moments(self, after: float, until: float) -> Iterator[float]:
        """Go through the moments of the rule, by counting."""
        rule = self.rule
        step = 60.0 if "cron" in rule else rule.get("every")
        if step is None:
            yield from (at for at in (rule["at"],) if after < at <= until)
            return
        first = rule.get("start", self.made_at + step) if "every" in rule else 0.0
        k = max(0, math.floor((after - first) / step) - 1)
        while (at := first + k * step) <= min(until, rule.get("end", math.inf)):
            if at > after and at >= rule.get("start", 0.0):
                yield at
            k += 1


@dataclass
class Firings:
    """What is known of one schedule."""

    row: Row
    moments: set[float] = field(default_factory=set)
    """Those that have fired, all of them on disk."""
    skips: bool = False
    """Whether moments may have been passed over without being counted, as it was resumed."""


class Clockwork:
    """All schedules of a run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._truth = world.truth
        self.known: dict[str, Firings] = {}
        """Those that are or were on disk."""
        self._there: dict[str, bytes] = {}
        self._by_payload: dict[bytes, str] = {encode_call([0, DECLARED, "a"], {}): DECLARED}
        self._names: list[str] = []
        self._by_hand: dict[bytes, str] = {}
        self._new: dict[str, list[float]] = {}
        """What has fired in the batch at hand."""

    # --- what is done ---------------------------------------------------------------------------

    def make_one(self, client: Client) -> None:
        """Have a client make a schedule; it comes to its end by itself."""
        rng, now = self._world.rng, self._world.now()
        if len(self._names) >= MOST:
            return
        name = f"schedule-{len(self._names)}"
        self._names.append(name)
        every = rng.choice([1.0, 2.5, 7.0, 20.0])
        rule: m.Facts = rng.choice(
            [
                {"every": every, "count": rng.choice([1, 5, 20])},
                {"every": every, "end": now + rng.choice([10.0, 60.0])},
                {"every": every, "start": math.floor(now) + 3.0, "count": 10},
                {"cron": "* * * * *", "end": now + 130.0},
                {"at": now + rng.choice([1.0, 30.0])},
            ]
        )
        rule["missed"] = rng.choice(["once", "skip", "all"])
        if rule["missed"] == "all":
            rule["missed_within"] = rng.choice([3.0, 1e6])
        rule["overlap"] = rng.choice(["skip", "queue", "replace", "allow"])
        if rng.random() < 0.3:
            rule["jitter"] = 0.7
        payload = encode_call([self._world.next_number(), name, rng.choice("abc")], {})
        self._by_payload[payload] = name
        task = rng.choice(["plain", "once", "again", "few", "hasty", "slow"])
        params = {"name": name, "rule": rule, "task": task, "payload": payload}
        client.ask("create-schedule", {**params, "request": rng.randbytes(16)})

    def meddle(self, client: Client) -> None:
        """Have a client pause, resume, run or delete a schedule."""
        rng = self._world.rng
        names = [name for name in self.known if name in self._there]
        if not names:
            return
        name = rng.choice(names)
        what = rng.choices(["pause", "resume", "run", "delete"], [3, 6, 3, 1])[0]
        params: m.Facts = {"name": name}
        if what == "resume":
            self.known[name].skips = True
        elif what == "run":
            params["id"] = new_id(self._world.now(), rng.randbytes(10))
            self._by_hand[params["id"]] = name
        elif what == "delete":
            params["request"] = rng.randbytes(16)
        client.ask(f"{what}-schedule", params)

    # --- what must hold -------------------------------------------------------------------------

    def opened(self, recovery: Recovery) -> None:
        """The store was opened: it has the schedules that were committed."""
        there = {row.name: row.data for row in recovery.schedules}
        self._truth.check(there == self._there, "schedules stand as they were committed")

    def recognise(self, job: NewJob, batch: Batch) -> Known | None:
        """Return what is known of a new job if it is a firing."""
        name = self._by_payload.get(job.payload)
        if name is None:
            return None
        truth = self._truth
        row = next((row for row in batch.schedules if row.name == name), None)
        truth.check(
            row is not None and row.data is not None,
            f"how far {name} has come is committed with its firing",
        )
        assert row is not None
        assert row.data is not None
        read = Row.read(row.data)
        firings = self.known.setdefault(name, Firings(read))
        moment: float | None = None
        if job.id not in self._by_hand:
            near = made_at(job.id)
            found = [
                at for at in read.moments(near - 0.01, near + 0.01) if firing_id(name, at) == job.id
            ]
            truth.check(len(found) == 1, f"{name} fires at moments of its rule: not {near}")
            moment = found[0]
            truth.check(moment not in firings.moments, f"{name} fires once at {moment}")
            truth.check(moment <= read.standing.reached, f"{name} has come to where it fired")
            truth.check(
                moment + self._put_off(name, read, moment) <= self._world.latest_now,
                f"{name} does not fire before its time",
            )
            firings.moments.add(moment)
            self._new.setdefault(name, []).append(moment)
        truth.count("firings" if moment is not None else "firings by hand")
        work = Work(*decode_value(row.data)["work"])
        number = self._world.next_number()
        truth.note(f"#{number} is {name}, fired for {moment}")
        said = m.Submit(
            0, job.id, job.task, work.queue, work.priority, job.payload, 0, work.options
        )
        known = self._world.known(said, number, is_by_plane=True)
        known.is_cancelled = read.rule.get("overlap") == "replace"
        return known

    def committed(self, batch: Batch) -> None:
        """A batch is on disk, and its jobs are known."""
        new, self._new = self._new, {}
        for row in batch.schedules:
            if row.data is None:
                self._there.pop(row.name, None)
                self.known.pop(row.name, None)  # another one may be made of that name
                continue
            read = Row.read(row.data)
            firings = self.known.setdefault(row.name, Firings(read))
            before = firings.row.standing if row.name in self._there else None
            self._check_row(row.name, firings, before, read, new.get(row.name, []))
            if before is not None and new.get(row.name):
                self._check_overlap(row.name, read, before, {oust.id for oust in batch.ousts})
            firings.row = read
            self._there[row.name] = row.data

    def _check_row(
        self, name: str, firings: Firings, before: Standing | None, row: Row, new: list[float]
    ) -> None:
        truth, standing = self._truth, row.standing
        truth.check(
            standing.fired == len(firings.moments),
            f"{name} has counted its firings: {standing.fired}, and there are "
            f"{len(firings.moments)}",
        )
        count = row.rule.get("count")
        truth.check(count is None or standing.fired <= count, f"{name} fires {count} times")
        if before is None:
            return
        truth.check(before.reached <= standing.reached, f"{name} does not go back")
        truth.check(
            all(moment > before.reached for moment in new), f"{name} fires no moment once more"
        )
        passed = list(row.moments(before.reached, standing.reached))
        lost = sum(getattr(standing, n) - getattr(before, n) for n in ("missed", "overlapped"))
        if len(passed) < MOST_COUNTED and not firings.skips:
            truth.check(
                len(passed) == len(new) + lost,
                f"each moment of {name} is decided once: {len(passed)} have come, {len(new)} fired "
                f"and {lost} passed over",
            )
            self._check_missed(name, row, passed, new)

    def _check_missed(self, name: str, row: Row, passed: list[float], new: list[float]) -> None:
        rule, standing, truth = row.rule, row.standing, self._truth
        if rule.get("missed") == "all":
            oldest = self._world.latest_now - rule["missed_within"]
            late = [moment for moment in passed if moment not in new and moment > oldest]
            truth.check(
                not late or rule.get("overlap") != "allow",
                f"{name} fires all that it missed within its time, also {late}",
            )
        elif new and standing.moment is not None and standing.fired_at is not None:
            later = next(row.moments(standing.moment, standing.fired_at), None)
            truth.check(
                later is None or later + self._put_off(name, row, later) > standing.fired_at,
                f"{name} fires for the last of the moments that it missed: not {standing.moment}, "
                f"but {later}",
            )
            late_s = standing.fired_at - standing.moment - self._put_off(name, row, standing.moment)
            truth.check(
                rule.get("missed") != "skip" or late_s <= LATE_S,
                f"{name} fires nothing that is {late_s:g} s late",
            )

    def _check_overlap(self, name: str, row: Row, before: Standing, ousts: set[bytes]) -> None:
        overlap = row.rule.get("overlap", "skip")
        for last in before.last_jobs:
            state = self._truth.state_of(last)
            free = {"allow": True, "replace": last in ousts}.get(overlap, False)
            self._truth.check(
                state is None or free,
                f"{name} fires beside no unfinished job of its own: {overlap}",
            )

    @staticmethod
    def _put_off(name: str, row: Row, moment: float) -> float:
        jitter: float = row.rule.get("jitter", 0.0)
        return jitter * firing_draw(name, moment)

    # --- the end --------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether no schedule fires any more, but those that are paused."""
        return not any(self._next(name) for name in self._there)

    def _next(self, name: str) -> float | None:
        row = self.known[name].row
        is_used_up = row.standing.fired >= row.rule.get("count", math.inf)
        if row.paused_at is not None or is_used_up:
            return None
        return next(row.moments(row.standing.reached, math.inf), None)

    def check_end(self) -> None:
        """Nothing is due any more, and the plane has what is on disk."""
        core, truth = self._world.core, self._truth
        assert core is not None
        for name in self._there:
            moment = self._next(name)
            truth.check(moment is None, f"{name} fires whatever is due: {moment} too")
        in_memory = {s.name: _without_when(s.row().data) for s in core.schedules.by_name.values()}
        on_disk = {name: _without_when(data) for name, data in self._there.items()}
        differ = [n for n in {*in_memory, *on_disk} if in_memory.get(n) != on_disk.get(n)]
        truth.check(not differ, f"schedules are on disk as they stand: {sorted(differ)}")
        left = [*core.schedules.waiting, *core.schedules._flights]
        truth.check(not left, f"no schedule waits for anything: {left}")


def _without_when(data: bytes | None) -> Any:
    """Return a row without when it was declared last: that is written if it differs much."""
    return {key: value for key, value in decode_value(data or b"").items() if key != "declared_at"}
