"""What goes wrong in a simulation, and when: a list of faults, drawn from a seed or written down.

Faults are data, each with a moment in seconds from the start. So a run that breaks a promise can be
cut down to the faults that it takes, and be written down as a test.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

from creche.channel.memory import Fate
from creche.errors import SettingsError
from creche.testing.simulate.disk import Loss

PLANE = "plane"
"""The name of the plane's machine."""

Direction: TypeAlias = Literal["to plane", "from plane"]

_FATES = (Fate.CUT_BEFORE, Fate.LOSE_AND_CUT, Fate.CUT_AFTER)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong, *at* so many seconds from the start."""

    at: float


@dataclass(frozen=True, slots=True)
class Cut(Fault):
    """The connection of *who* ends when it has carried so many more *frames* in a direction: before
    the next, instead of it, or after it."""

    who: str
    direction: Direction = "to plane"
    frames: int = 0
    fate: Fate = Fate.CUT_BEFORE


@dataclass(frozen=True, slots=True)
class Partition(Fault):
    """For *for_s* seconds there is no way between *who* and the plane: what is on its way is lost,
    and nobody can connect."""

    who: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Slow(Fault):
    """For *for_s* seconds each frame of *who* is on its way for up to *by_s* longer."""

    who: str
    for_s: float
    by_s: float


@dataclass(frozen=True, slots=True)
class Pause(Fault):
    """The machine *who* is stopped for *for_s* seconds, and then goes on as if nothing had been."""

    who: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Crash(Fault):
    """The process of *who* is killed when it has made so many more *steps*, and a new one is
    started *down_s* seconds later."""

    who: str
    steps: int = 0
    down_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Stop(Fault):
    """The plane or a worker is told to end, as a service manager does: it takes nothing new, lets
    what runs leave for as long as it may, and ends. A new one is started *down_s* seconds later."""

    who: str
    down_s: float = 1.0


@dataclass(frozen=True, slots=True)
class PowerFailure(Fault):
    """The plane's machine loses its power in the middle of its next write, of which the part
    *written* is on the disk, from 0 to 1. It is there again *down_s* seconds later."""

    written: float
    down_s: float = 1.0


@dataclass(frozen=True, slots=True)
class StoreDies(Fault):
    """The store's process is killed: before or after it has done its next commit, or in a read."""

    loss: Loss


@dataclass(frozen=True, slots=True)
class DiskFull(Fault):
    """Nothing can be written for *for_s* seconds."""

    for_s: float


@dataclass(frozen=True, slots=True)
class DiskSlow(Fault):
    """For *for_s* seconds each call of the store may take up to *by_s*."""

    for_s: float
    by_s: float


@dataclass(frozen=True, slots=True)
class Skew(Fault):
    """The wall clock of *who* is set so many seconds ahead of the others', or behind."""

    who: str
    by_s: float


@dataclass(frozen=True, slots=True)
class Script:
    """Everything that a run is made of, beside its scenario: what is drawn comes from *seed*.

    Attributes:
        faults: what goes wrong.
        usual_s: how long a frame is on its way at the most when nothing is wrong.
        is_on_file: whether the store is SQLite in a file; else it is like it, in memory.
    """

    seed: int
    faults: Sequence[Fault] = ()
    usual_s: float = 2**-9
    is_on_file: bool = True

    @property
    def skew_s(self) -> float:
        """By how much clocks differ at the most."""
        skews = [abs(fault.by_s) for fault in self.faults if isinstance(fault, Skew)]
        return 2 * max(skews, default=0.0)

    @property
    def slow_s(self) -> float:
        """How long something may be on its way, to a peer or to the disk, beyond the usual."""
        slow = [fault.by_s for fault in self.faults if isinstance(fault, Slow)]
        # An order to write waits for those before it.
        disk = [3 * fault.by_s for fault in self.faults if isinstance(fault, DiskSlow)]
        return self.usual_s + max(slow, default=0.0) + max(disk, default=0.0)

    def __repr__(self) -> str:
        faults = "".join(f"        {_code(fault)},\n" for fault in self.faults)
        options = [f"{self.seed}"]
        if faults:
            options.append(f"faults=[\n{faults}    ]")
        options += [
            f"{each.name}={getattr(self, each.name)!r}"
            for each in fields(self)
            if each.name in ("usual_s", "is_on_file") and getattr(self, each.name) != each.default
        ]
        return f"Script({', '.join(options)})"


def _code(fault: Fault) -> str:
    said = []
    for each in fields(fault):
        value = getattr(fault, each.name)
        if value != each.default:
            text = str(value) if isinstance(value, Fate) else repr(value)
            said.append(text if each.name == "at" else f"{each.name}={text}")
    return f"{type(fault).__name__}({', '.join(said)})"


def check_script(script: Script, cast: Cast) -> None:
    """Refuse a script that cannot be played by *cast*.

    Raises:
        SettingsError: a fault is of nobody there is, or at no time there is.
    """
    for fault in script.faults:
        for name in ("at", "for_s", "down_s", "steps", "frames"):
            number = getattr(fault, name, 0)
            if not 0 <= number < math.inf:
                raise SettingsError(f"{_code(fault)}: {name} is a number from 0, not {number!r}")
        who = getattr(fault, "who", PLANE)
        hit = cast.peers if isinstance(fault, Cut | Partition | Slow) else [PLANE, *cast.peers]
        if isinstance(fault, Stop):
            hit = [PLANE, *cast.workers]
        if who not in hit:
            raise SettingsError(f"{_code(fault)}: there is no {who!r}: there are {', '.join(hit)}")


@dataclass(frozen=True, slots=True)
class Perils:
    """How often each kind of fault is drawn, against the others."""

    cut: float = 8
    partition: float = 3
    slow: float = 2
    pause: float = 2
    crash: float = 3
    crash_plane: float = 1.5
    stop: float = 1.5
    power: float = 0.7
    store_dies: float = 1
    disk_full: float = 0.7
    disk_slow: float = 1
    skew: float = 0.5


@dataclass(frozen=True, slots=True)
class Cast:
    """Who can be hit: the names of all workers and clients."""

    workers: Sequence[str]
    clients: Sequence[str]

    @property
    def peers(self) -> list[str]:
        """All but the plane."""
        return [*self.workers, *self.clients]


def draw_script(seed: int, cast: Cast, for_s: float, perils: Perils = Perils()) -> Script:
    """Draw what goes wrong within *for_s* seconds."""
    rng = random.Random(f"script {seed}")
    number = rng.choice([0, 3, 8, 15, 25])
    names = [each.name for each in fields(perils)]
    weights = [getattr(perils, name) for name in names]
    faults = [
        _draw(rng, name, round(rng.uniform(0.0, for_s), 3), cast)
        for name in rng.choices(names, weights, k=number)
    ]
    return Script(
        seed,
        sorted(faults, key=lambda fault: fault.at),
        usual_s=rng.choice([2**-11, 2**-9, 2**-6, 2**-2]),
        is_on_file=rng.random() < 0.5,
    )


def _draw(rng: random.Random, name: str, at: float, cast: Cast) -> Fault:
    peer = rng.choice(cast.peers)
    anyone = rng.choice([PLANE, *cast.peers])
    down_s = rng.choice([0.0, 0.5, 3.0, 20.0])
    match name:
        case "cut":
            direction: Direction = rng.choice(("to plane", "from plane"))
            return Cut(at, peer, direction, rng.choice([0, 0, 1, 2, 5]), rng.choice(_FATES))
        case "partition":
            return Partition(at, peer, rng.choice([1.0, 8.0, 13.0, 20.0]))
        case "slow":
            return Slow(at, peer, rng.choice([1.0, 10.0]), rng.choice([0.5, 5.0]))
        case "pause":
            return Pause(at, anyone, rng.choice([0.5, 4.0, 27.0, 200.0]))
        case "crash":
            return Crash(at, peer, rng.choice([0, rng.randrange(200)]), down_s)
        case "crash_plane":
            return Crash(at, PLANE, rng.choice([0, rng.randrange(1000)]), down_s)
        case "stop":
            return Stop(at, rng.choice([PLANE, *cast.workers]), down_s)
        case "power":
            return PowerFailure(at, rng.choice([0.0, 1.0, round(rng.random(), 3)]), down_s)
        case "store_dies":
            return StoreDies(at, rng.choice(("before", "after", "read")))
        case "disk_full":
            return DiskFull(at, rng.choice([0.5, 5.0]))
        case "disk_slow":
            return DiskSlow(at, rng.choice([1.0, 10.0]), rng.choice([0.05, 1.0]))
        case _:
            return Skew(at, anyone, rng.choice([-20.0, -1.0, 1.0, 20.0]))
