"""Signals at the edges: while a process is about to end by itself, and before it has begun."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

TOLD = """
import signal, sys
import trio
from creche.cli.processes import stop_signals

class AtTheVeryEnd:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

async def main():
    with stop_signals(None) as signals:
        signal.raise_signal(signal.SIGTERM)
        async for number in signals:
            print("told", number)
            break

trio.run(main)
signal.raise_signal(signal.SIGTERM)
sys.modules["kept to the end"] = AtTheVeryEnd()
sys.exit(3)
"""

BEFORE = """
import signal
from contextlib import contextmanager
import trio
from creche.cli import processes

@contextmanager
def receiver(*numbers):
    signal.raise_signal(signal.SIGTERM)
    yield

trio.open_signal_receiver = receiver
with processes.stop_signals(None):
    print("deaf")
"""


@pytest.mark.parametrize(
    ("script", "said", "code"),
    [(TOLD, "told 15\n", 3), (BEFORE, "", -15)],
    ids=["after it is the end", "before it is heard"],
)
def test_a_process_hears_sigterm_until_it_ends_by_itself(script: str, said: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == (said, "", code)


HUNG_UP = """
import signal, sys
import trio
from creche.cli.processes import stop_signals

async def main():
    with stop_signals(None) as signals:
        signal.raise_signal(signal.SIGHUP)
        with trio.move_on_after(0.1):
            async for number in signals:
                print("told", number)
                break

signal.signal(signal.SIGHUP, signal.SIG_IGN if "ignored" in sys.argv else signal.SIG_DFL)
trio.run(main)
signal.raise_signal(signal.SIGHUP)
"""


@pytest.mark.parametrize(("words", "said"), [([], "told 1\n"), (["ignored"], "")], ids=str)
def test_a_closed_terminal_asks_a_process_to_stop_unless_nohup_is_before_it(
    words: list[str], said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HUNG_UP, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == (said, "", 0)


def test_ctrl_c_before_the_program_is_loaded_ends_it_without_a_word() -> None:
    script = """
import signal, sys

class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == "creche.cli.app":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Impatient())
from creche.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", -signal.SIGINT)
