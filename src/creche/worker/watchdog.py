"""A thread that notices when a body blocks the worker's loop, and names the task.

A loop that is blocked sends no pings, and so loses its leases in the end; its user sees jobs stand
still and nothing that says why. So somebody beside the loop looks, while coroutine bodies are in,
whether it still comes round.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import sysconfig
import threading
from time import perf_counter
from types import CodeType, FrameType

import trio

from creche.worker.attempt import Attempt

logger = logging.getLogger("creche.worker")

_PARTS = 4
"""How many times it looks while a loop would have to be blocked to be named."""

_LIBRARIES = tuple(
    os.path.realpath(path) + os.sep
    for path in {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib")}
    if path
)
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Watchdog(trio.abc.Instrument):
    """Warns once for each time that the loop does not come round for *stall_s* seconds; if that is
    infinite, it has no thread.

    Made, opened and closed in the loop's thread. Its own thread begins when it is armed first and
    sleeps while it is not armed: an idle worker pays nothing for it.

    Args:
        body_code: the code of the function that runs bodies, which has a local `attempt`.
    """

    def __init__(self, stall_s: float, body_code: CodeType) -> None:
        self._stall_s = stall_s
        self._body_code = body_code
        self._loop_thread = threading.get_ident()
        # When the loop came back from waiting for I/O; None while it waits.
        self._busy_since: float | None = perf_counter()
        self._rounds = 0
        self._is_armed = False
        self._is_asleep = True
        self._is_closed = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Begin to follow the loop."""
        if self._stall_s < math.inf:
            trio.lowlevel.add_instrument(self)

    def close(self) -> None:
        """Stop following, and let the thread end."""
        if self._stall_s < math.inf:
            trio.lowlevel.remove_instrument(self)
        self._is_closed = True
        self._wake.set()

    def arm(self) -> None:
        """Coroutine bodies are in: look after the loop."""
        self._is_armed = True
        if self._is_asleep and self._stall_s < math.inf:
            self._is_asleep = False
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._watch, name="creche-watchdog", daemon=True
                )
                self._thread.start()
            else:
                self._wake.set()

    def disarm(self) -> None:
        """No coroutine body is in. The thread goes to sleep when it looks next."""
        self._is_armed = False

    # --- in the loop ----------------------------------------------------------------------------

    def before_io_wait(self, timeout: float) -> None:
        """The loop has come round."""
        self._busy_since = None

    def after_io_wait(self, timeout: float) -> None:
        """The loop begins its next round."""
        self._rounds += 1
        self._busy_since = perf_counter()

    # --- in its own thread ----------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._is_closed:
            if not self._is_armed:
                self._is_asleep = True
                self._wake.clear()
                # Armed since: whoever did so may have seen it awake, and not set the event.
                if not self._is_armed and not self._is_closed:
                    self._wake.wait()
                self._is_asleep = False
                continue
            since, round_number = self._busy_since, self._rounds
            if since is not None and perf_counter() - since >= self._stall_s:
                self._report(since, round_number)
            else:
                self._wake.clear()
                self._wake.wait(self._stall_s / _PARTS)

    def _report(self, since: float, round_number: int) -> None:
        """Name what blocks the loop, and wait until it no longer does."""
        frame = sys._current_frames().get(self._loop_thread)
        if frame is None or self._rounds != round_number:
            return
        what = describe(frame, self._body_code)
        del frame
        logger.warning(
            "the worker's loop has been blocked for %.1f s by %s: meanwhile nothing else of this "
            "worker moves; what blocks belongs into a plain def, which runs in a thread",
            perf_counter() - since,
            what,
        )
        while self._rounds == round_number and self._busy_since == since and not self._is_closed:
            self._wake.clear()
            self._wake.wait(self._stall_s / _PARTS)
        logger.warning("the worker's loop goes on after %.1f s (%s)", perf_counter() - since, what)


def describe(frame: FrameType, body_code: CodeType) -> str:
    """Say which task is on the stack that ends in *frame*, and at which of the user's lines."""
    name = "code that a task started"
    place: FrameType | None = None
    outermost = frame
    current: FrameType | None = frame
    while current is not None:
        code = current.f_code
        if code is body_code:
            attempt = current.f_locals.get("attempt")
            if isinstance(attempt, Attempt):
                name = f"task {attempt.task.name!r}"
            break
        if place is None and not _is_library(code.co_filename):
            place = current
        outermost, current = current, current.f_back
    if place is None:
        # Tasks that are installed as a library: the task's own function, if it is there at all.
        place = frame if current is None else outermost
    return f"{name} at {place.f_code.co_filename}:{place.f_lineno} in {place.f_code.co_name}()"


def _is_library(filename: str) -> bool:
    return filename.startswith((*_LIBRARIES, _OURS, "<frozen"))
