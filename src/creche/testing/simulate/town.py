"""One simulation: a plane, its disk, workers and clients, each a machine of its own, on one virtual
clock, with a script of what goes wrong."""

from __future__ import annotations

import gc
import hashlib
import math
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio
import trio.testing

from creche.client.client import Client
from creche.engine.plane import run_plane
from creche.engine.settings import PlaneSettings
from creche.errors import (
    ClientClosed,
    CrecheError,
    PlaneUnreachable,
    SettingsError,
    SubmissionUncertain,
    SubmitTimeout,
)
from creche.events import Event as PlaneEvent
from creche.events import LeaseLost
from creche.tasks.registry import Registry
from creche.testing.history import (
    Back,
    Bounds,
    Event,
    Gone,
    Joined,
    Lost,
    MemoryRecorder,
    Paused,
    Severed,
    Violation,
    Woken,
    check,
)
from creche.testing.history.record import Body
from creche.testing.simulate.disk import Disk
from creche.testing.simulate.machines import Machine, machines_can_stop, same_every_time
from creche.testing.simulate.network import Network
from creche.testing.simulate.script import (
    PLANE,
    Cast,
    Crash,
    Cut,
    DiskFull,
    DiskSlow,
    Fault,
    Partition,
    Pause,
    PowerFailure,
    Script,
    Skew,
    Slow,
    Stop,
    StoreDies,
    check_script,
)
from creche.worker.context import current_job
from creche.worker.runner import Worker
from creche.worker.settings import WorkerSettings

ENDS_S = 1_000.0
"""How long after the last fault everything has to have ended, in seconds of the virtual clock."""

MOST_ROUNDS = 50_000
"""Rounds of the loop in which no time passes: with more of them something turns in circles."""

CRASHES_S = 60.0
"""How long what is to crash at a step may take to get there."""

AGAIN_S = 0.5
"""How long after it has ended by itself a process is started again."""

SESSION_LOST = (PlaneUnreachable, ClientClosed, SubmissionUncertain, SubmitTimeout)
"""What `Scenario.play` may end with because of what went wrong: its user begins again. Any other
error is a mistake in the scenario, and ends the run."""

AUDITOR = "auditor"
"""The name of the client that looks at everything at the end, and that nothing befalls."""


class Scenario(Protocol):
    """What is done in a simulation, whatever goes wrong.

    Attributes:
        cast: the workers and clients there are.
        settings: of the plane.
    """

    cast: Cast
    settings: PlaneSettings

    def begin(self, town: Town) -> None:
        """Note what holds from the start, as limits."""
        ...

    def registry(self, town: Town, worker: str) -> Registry:
        """Return the tasks of a worker. Their bodies note what they do in `Town.recorder`."""
        ...

    def queues(self, worker: str) -> Sequence[str]:
        """Return the queues that a worker listens on."""
        ...

    def concurrency(self, worker: str) -> int:
        """Return how many bodies a worker runs at a time."""
        ...

    async def play(self, town: Town, client: Client, name: str) -> None:
        """Do what a client does. Called anew in each process that is started after a crash, and
        when it has ended with one of `SESSION_LOST`: what the one before has begun is lost, but for
        what the scenario remembers. Any other error ends the run."""
        ...

    async def audit(self, town: Town, client: Client) -> None:
        """Faults are over, and every client has played: wait until everything has ended, note that,
        and look at all of it."""
        ...


@dataclass(frozen=True, slots=True)
class Report:
    """What came of one run.

    Attributes:
        script: what it was made of.
        violations: the promises that it broke.
        history: what was seen and done.
        digest: of every frame and every event, in order: the same script gives the same.
        frames: how many there were.
        lasted_s: by the virtual clock.
    """

    script: Script
    violations: Sequence[Violation]
    history: Sequence[Event]
    digest: str
    frames: int
    lasted_s: float


class Stuck(AssertionError):
    """Something never ended, though nothing was wrong any more."""


class Town:
    """Everything of one run. Scenarios see it, and note what they do in `recorder`."""

    def __init__(self, scenario: Scenario, script: Script, folder: Path | None) -> None:
        self.scenario = scenario
        self.script = script
        self._seed = f"{script.seed}"
        self.recorder = MemoryRecorder("town", clock=trio.current_time)
        self.disk = Disk(folder, f"{self._seed}/disk")
        self.network = Network(self._seed, script.usual_s, self._saw_frame, self._saw_link)
        self.machines: dict[str, Machine] = {}
        """Those of now, by name."""
        self._ever: list[Machine] = []
        """All there have been, with those that have crashed."""
        self.frames = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._starts: dict[str, int] = {}
        self._skews: dict[str, float] = {}
        self._has_crashed, self._crashes = trio.open_memory_channel[Machine](math.inf)
        self._store_is_gone = False
        self._disk_troubles = 0
        self._playing = 0
        self._why_again = ""
        self._all_played = trio.Event()
        self._nursery: trio.Nursery

    # --- machines -------------------------------------------------------------------------------

    def _new_machine(self, name: str) -> Machine:
        self._starts[name] = start = self._starts.get(name, 0) + 1
        machine = self.machines[name] = Machine(name, f"{self._seed}/{name}/{start}")
        machine.skew_s = self._skews.get(name, 0.0)
        self._ever.append(machine)
        machine.on_crash = partial(self._crashed, machine)
        return machine

    def _crashed(self, machine: Machine) -> None:
        """What is seen of a crash at once: its sockets are closed by whoever ran it."""
        machine.on_end()
        self.recorder.note(Gone, who=machine.name, role=self.role(machine.name))
        self._has_crashed.send_nowait(machine)
        if machine.name == PLANE:
            self.network.close_door()
        else:
            self.network.line(machine.name).cut(deliver_in_flight=True)

    def role(self, name: str) -> Any:
        """Return what a machine is there for."""
        if name == PLANE:
            return "plane"
        return "worker" if name in self.scenario.cast.workers else "client"

    def _start(self, name: str) -> None:
        """Start a machine's process."""
        run: Callable[[Machine], Awaitable[None]] = {
            "plane": self._run_plane,
            "worker": self._run_worker,
            "client": self._run_client,
        }[self.role(name)]
        machine = self._new_machine(name)
        with machine.here():
            self._nursery.start_soon(_run_machine, machine, run, name=name)

    async def _run_plane(self, machine: Machine) -> None:
        stop = trio.Event()
        machine.on_term = stop.set
        while not stop.is_set():
            try:
                await run_plane(
                    self.disk.make_store,
                    self.network.serve,
                    self.scenario.settings,
                    stop=stop,
                    clock=machine.now,
                    draw=machine.host.draw,
                    subscribers=(self._happens,),
                )
            except CrecheError:
                # It could not begin: whoever supervises it starts it again.
                await trio.sleep(AGAIN_S)
        machine.left(AGAIN_S)

    async def _run_worker(self, machine: Machine) -> None:
        scenario = self.scenario
        while True:
            worker = Worker(
                _coroutines(scenario.registry(self, machine.name)),
                dial=partial(self.network.dial, machine),
                url="sim:plane",
                worker_id=machine.name,
                queues=scenario.queues(machine.name),
                concurrency=scenario.concurrency(machine.name),
                settings=WorkerSettings(stall_s=math.inf),
                host=machine.host,
            )
            machine.on_term = partial(worker.begin_drain, "it was told to stop")
            try:
                await worker.run()
                break
            except CrecheError:
                if machine.is_told:
                    break
                await trio.sleep(AGAIN_S)
        machine.left(AGAIN_S)

    async def _run_client(self, machine: Machine) -> None:
        while True:
            try:
                async with self.client(machine) as client:
                    await self.scenario.play(self, client, machine.name)
            except SESSION_LOST as error:
                self._why_again = f"{machine.name} began again: {error}"
                await trio.sleep(AGAIN_S)
            else:
                break
        self._playing -= 1
        if not self._playing:
            self._all_played.set()

    def client(self, machine: Machine) -> Client:
        """Return a client on a machine, to be entered."""
        return Client(
            "sim:plane",
            dial=partial(self.network.dial, machine),
            name=machine.name,
            host=machine.host,
            on_warning=lambda _: None,
        )

    @contextmanager
    def body(self, call: str | None = None) -> Iterator[Body]:
        """Note that a body begins, and how it leaves: around all that it does. *call* is the name
        of what its submitter did, if its arguments say that."""
        job = current_job()
        attempt = ".".join(map(str, job.fence))
        with self.recorder.body(
            process=job.worker, host=job.worker, job=job.id, attempt=attempt, call=call
        ) as body:
            yield body

    # --- a run ----------------------------------------------------------------------------------

    async def run(self) -> Report:
        """Play the scenario and the script, and judge what came of them."""
        cast = self.scenario.cast
        self.scenario.begin(self)
        self.disk.on_store_gone = lambda: self._store_is(Gone)
        self.disk.on_store_back = lambda: self._store_is(Back)
        self.disk.on_power_failure = lambda: self.machines[PLANE].crash()
        report: Report | None = None
        with machines_can_stop(), _time_passes(lambda: self._nursery.cancel_scope.cancel()):
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._start_again)
                for name in (PLANE, *cast.workers, *cast.clients):
                    self._start(name)
                self._playing = len(cast.clients)
                try:
                    await self._go_wrong()
                    await self._come_to_rest()
                    report = self._report()
                finally:
                    self._tear_down()
        if report is None:
            raise Stuck(f"something turns in circles, {trio.current_time():g} s from the start")
        return report

    async def _start_again(self) -> None:
        """Start a new process for each that has crashed, when it has been down for its time."""

        async def start_one(machine: Machine) -> None:
            await trio.sleep(machine.down_s)
            self.recorder.note(Back, who=machine.name, role=self.role(machine.name))
            self._start(machine.name)

        async with trio.open_nursery() as starts:
            async for machine in self._crashes:
                starts.start_soon(start_one, machine)

    async def _go_wrong(self) -> None:
        """Have the faults of the script happen, each at its time, and wait until all are over."""
        async with trio.open_nursery() as faults:
            for fault in self.script.faults:
                faults.start_soon(self._happen, fault)
        self.disk.heal()
        for line in self.network.lines:
            line.fates.clear()
            line.slow_s = 0.0
            line.is_down = False

    async def _come_to_rest(self) -> None:
        machine = self._new_machine(AUDITOR)
        with trio.move_on_after(ENDS_S) as limit:
            await self._all_played.wait()
            with machine.here():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._audit, machine)
        if limit.cancelled_caught:
            waiting = f"{self._playing} clients still play" if self._playing else "the audit waits"
            why = f" ({self._why_again})" if self._playing and self._why_again else ""
            raise Stuck(f"{waiting} {ENDS_S:,.0f} s after the last fault{why}")

    async def _audit(self, machine: Machine) -> None:
        async with self.client(machine) as client:
            await self.scenario.audit(self, client)

    def _report(self) -> Report:
        history = list(self.recorder.events)
        for event in history:
            self._digest.update(repr((event.at, event.process, type(event).__name__)).encode())
        slow_s = self.script.slow_s
        bounds = Bounds(
            1.0 + slow_s,
            travel_s=slow_s,
            skew_s=0.001 + self.script.skew_s,
            # A connection of which only the plane has seen the end is given up as silent.
            leaves_s=2 * self.scenario.settings.keep_alive_s + 1.0 + slow_s,
            # That the slot is free is on its way, and then what is to run there.
            late_s=1.0 + 2 * slow_s,
        )
        return Report(
            self.script,
            check(history, bounds),
            history,
            self._digest.hexdigest(),
            self.frames,
            trio.current_time(),
        )

    def _tear_down(self) -> None:
        """The run is judged: whoever is stopped may clean up now."""
        for machine in self._ever:
            machine.release()
        self._nursery.cancel_scope.cancel()

    # --- what goes wrong ------------------------------------------------------------------------

    async def _happen(self, fault: Fault) -> None:
        await trio.sleep_until(fault.at)
        match fault:
            case Cut():
                self.network.line(fault.who).fates[fault.direction] = fault.frames, fault.fate
            case Partition():
                line = self.network.line(fault.who)
                line.go_down()
                await trio.sleep(fault.for_s)
                line.is_down = False
            case Slow():
                line = self.network.line(fault.who)
                line.slow_s = fault.by_s
                await trio.sleep(fault.for_s)
                line.slow_s = 0.0
            case Pause():
                await self._pause(self.machines[fault.who], fault.for_s)
            case Crash():
                machine = self.machines[fault.who]
                machine.crash_after(fault.steps, fault.down_s)
                await self._wait_for_crash(machine)
            case Stop():
                await self._tell_to_end(self.machines[fault.who], fault.down_s)
            case PowerFailure():
                machine = self.machines[PLANE]
                self.disk.tear, machine.down_s = fault.written, fault.down_s
                await self._wait_for_crash(machine)
                self.disk.tear = None
            case StoreDies():
                self.disk.loss = fault.loss
            case DiskFull():
                self.disk.is_full = True
                await self._trouble_disk(fault.for_s)
                self.disk.is_full = False
            case DiskSlow():
                self.disk.slow_s = fault.by_s
                await self._trouble_disk(fault.for_s)
                self.disk.slow_s = 0.0
            case Skew():
                self._skews[fault.who] = self.machines[fault.who].skew_s = fault.by_s
            case _:
                raise TypeError(f"{fault!r} is no fault that can happen here")

    async def _tell_to_end(self, machine: Machine, down_s: float) -> None:
        """A plane that ends begins nothing new, as one that nobody can reach."""
        if machine.name == PLANE and not (machine.has_crashed or machine.is_told):
            self.recorder.note(Paused, who=PLANE, role="plane")
            machine.on_end = lambda: self.recorder.note(Woken, who=PLANE, role="plane")
        machine.tell_to_end(down_s)
        await self._wait_for_crash(machine)

    async def _pause(self, machine: Machine, for_s: float) -> None:
        if machine.is_stopped:
            return
        role = self.role(machine.name)
        self.recorder.note(Paused, who=machine.name, role=role)
        machine.stop()
        await trio.sleep(for_s)
        if not machine.has_crashed:
            self.recorder.note(Woken, who=machine.name, role=role)
            machine.go_on()

    async def _trouble_disk(self, for_s: float) -> None:
        """What is to be written meanwhile is late, as if nobody could reach the disk."""
        if not self._disk_troubles:
            self.recorder.note(Paused, who="disk", role="store")
        self._disk_troubles += 1
        await trio.sleep(for_s)
        self._disk_troubles -= 1
        if not self._disk_troubles:
            self.recorder.note(Woken, who="disk", role="store")

    async def _wait_for_crash(self, machine: Machine) -> None:
        """Wait until a machine crashes: one that does too little for that has it done to it."""
        with trio.move_on_after(CRASHES_S):
            await machine.crashed.wait()
        machine.crash()

    def _store_is(self, there: type[Gone] | type[Back]) -> None:
        """Its process goes, and comes back, on the plane's machine."""
        if there is Gone or self._store_is_gone:
            self._store_is_gone = there is Gone
            self.recorder.note(there, who="store", role="store")

    # --- what is seen ---------------------------------------------------------------------------

    def _happens(self, event: PlaneEvent) -> None:
        if isinstance(event, LeaseLost):
            attempt = f"{event.epoch}.{event.attempt}"
            self.recorder.note(Lost, process=PLANE, job=event.job, attempt=attempt)

    def _saw_link(self, peer: str, is_linked: bool) -> None:
        kind = Joined if is_linked else Severed
        self.recorder.note(kind, who=peer, role=self.role(peer))

    def _saw_frame(self, peer: str, direction: str, checksum: int) -> None:
        self.frames += 1
        self._digest.update(f"{trio.current_time()} {peer} {direction} {checksum}\n".encode())


class _Rounds(trio.abc.Instrument):
    """Counts the rounds of the loop in which no time passes."""

    def __init__(self, on_many: Callable[[], None]) -> None:
        self._on_many = on_many
        self._now = trio.current_time()
        self._rounds = 0

    def before_io_wait(self, timeout: float) -> None:
        now = trio.current_time()
        if now > self._now:
            self._now, self._rounds = now, 0
            return
        self._rounds += 1
        if self._rounds == MOST_ROUNDS:
            self._on_many()


@contextmanager
def _time_passes(on_many: Callable[[], None]) -> Iterator[None]:
    """Call *on_many* if time stands still for very many rounds while the block goes on."""
    rounds = _Rounds(on_many)
    trio.lowlevel.add_instrument(rounds)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(rounds)


def _coroutines(registry: Registry) -> Registry:
    """Refuse a task that does not run on the loop: no two runs with it would be the same."""
    for each in registry:
        if each.executor != "coroutine":
            raise SettingsError(
                f"task {each.name!r} runs in executor {each.executor!r}, outside of the virtual "
                f"clock: in a simulation bodies are coroutines (async def)"
            )
    return registry


async def _run_machine(machine: Machine, run: Callable[[Machine], Awaitable[None]]) -> None:
    try:
        await run(machine)
    except BaseException:
        # The process was killed: what its code would do afterwards is of no concern.
        if not machine.has_crashed:
            raise


def run(scenario: Scenario, script: Script) -> Report:
    """Run one simulation, and return what came of it. The same scenario and script come to the same
    in every run.

    Raises:
        Stuck: something never ended.
        SettingsError: the script names nobody there is, or a task is no coroutine.
    """
    check_script(script, scenario.cast)
    clock = trio.testing.MockClock(autojump_threshold=0)
    frequency = gc.get_threshold()
    place = tempfile.TemporaryDirectory() if script.is_on_file else nullcontext(None)
    with place as folder, same_every_time(script.seed):

        async def main() -> Report:
            town = Town(scenario, script, None if folder is None else Path(folder))
            return await town.run()

        # What a run makes is kept until it is judged: looking for garbage so soon finds nothing.
        gc.set_threshold(50_000, *frequency[1:])
        try:
            return trio.run(main, clock=clock)
        finally:
            gc.set_threshold(*frequency)
