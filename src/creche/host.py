"""What a process asks its machine for: who it is, the time of day, and chance.

An argument wherever one of these is needed, so that a test or a simulation decides them. How time
passes is not among them: that is told by Trio's or asyncio's own clock.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Host:
    """The machine that a process runs on.

    Attributes:
        name: returns what the machine is called.
        pid: returns the process's number; another one after a fork.
        clock: returns UTC seconds.
        entropy: returns so many random bytes, for ids that nobody else makes.
        draw: returns a random number in [0, 1), for what should not happen everywhere at once.
    """

    name: Callable[[], str] = socket.gethostname
    pid: Callable[[], int] = os.getpid
    clock: Callable[[], float] = time.time
    entropy: Callable[[int], bytes] = os.urandom
    draw: Callable[[], float] = random.random


THIS_HOST = Host()
"""The real one."""
