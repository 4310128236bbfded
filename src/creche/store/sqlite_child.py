"""The process that holds an SQLite store, as the plane starts it.

It is told two sockets. On the first come the engine's calls, one at a time, each answered before
the next is read; the main thread serves them, and it alone writes. On the second come questions,
served by a second thread on a connection that only reads.

The process lives exactly as long as the plane's end of the sockets is open, and takes no orders
otherwise: the terminal's signals are the plane's affair. The plane's end closing unasked means that
the plane is gone, and then nobody waits for an answer: a commit that is under way may be cut, as by
`kill -9`.

    python -m creche.store.sqlite_child PATH CALLS_FD QUESTIONS_FD QUESTION_S MAX_BYTES
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

from creche.errors import StoreError, StoreFull, StoreLocked, StoreOverLimit, StoreUnusable
from creche.store.sqlite_file import FileLock, check_file, lay_out_log, open_to_read, open_to_write
from creche.store.sqlite_history import History
from creche.store.sqlite_ledger import Ledger
from creche.store.sqlite_pipe import (
    ERROR,
    FULL,
    LOCKED,
    OK,
    OVER_LIMIT,
    UNUSABLE,
    AnsweringEnd,
)

LAST_QUESTION_S = 1.0
"""How long closing waits for the thread that answers questions."""


def main() -> None:
    """Serve one plane until it closes the store or is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    path, calls_fd, questions_fd, question_s, max_bytes = sys.argv[1:]
    calls = AnsweringEnd(socket.socket(fileno=int(calls_fd)))
    questions = AnsweringEnd(socket.socket(fileno=int(questions_fd)))
    Keeper(path, calls, questions, float(question_s), int(max_bytes)).run()


class Keeper:
    """Holds the lock, the file and the two connections, from `open` to `close`."""

    def __init__(
        self,
        path: str,
        calls: AnsweringEnd,
        questions: AnsweringEnd,
        question_s: float,
        max_bytes: int,
    ) -> None:
        self._path = path
        self._calls = calls
        self._questions = questions
        self._question_s = question_s
        self._max_bytes = max_bytes
        self._is_closing = False

    def run(self) -> None:
        """Answer the engine's calls."""
        request = self._calls.receive()
        if request is None:
            return
        _, now, plane_pid, lock_wait_s = request
        try:
            check_file(self._path)
            lock = FileLock.take(self._path, plane_pid, lock_wait_s, self._calls.is_closed)
            try:
                check_file(self._path)  # again: it had time to become something else
                connection = open_to_write(self._path)
                ledger = Ledger(connection, self._max_bytes)
                answer = (OK, ledger.open(now))
                lay_out_log(self._path)
            except BaseException:
                lock.release()
                raise
        except StoreError as error:
            self._calls.send(_as_answer(error))
            return
        # Only now: the questions' connection finds the schema in place.
        answering = threading.Thread(target=self._answer_questions, daemon=True)
        answering.start()
        self._calls.send(answer)
        while request := self._calls.receive():
            name, *arguments = request
            if name == "close":
                break
            try:
                answer = (OK, getattr(ledger, name)(*arguments))
            except StoreError as error:
                answer = _as_answer(error)
            self._calls.send(answer)
        self._is_closing = True
        self._questions.shutdown()
        answering.join(LAST_QUESTION_S)
        # The last connection to close moves the log into the file and removes it.
        connection.close()
        lock.release()
        if request:
            self._calls.send((OK, None))

    def _answer_questions(self) -> None:
        try:
            history: History | None = None
            while request := self._questions.receive():
                name, *arguments = request
                try:
                    if history is None:
                        asking = open_to_read(self._path, is_open_here=True)
                        history = History(asking, self._path, self._question_s)
                    answer = (OK, getattr(history, name)(*arguments))
                except StoreError as error:
                    answer = _as_answer(error)
                self._questions.send(answer)
            if history is not None:
                history.close()
        except BaseException as error:
            # A bug: without this thread the store is no store, so the process ends as a whole.
            sys.excepthook(type(error), error, error.__traceback__)
            _end_at_once(1)
        if not self._is_closing:
            _end_at_once(0)


def _end_at_once(code: int) -> NoReturn:
    """End without waiting for the main thread: what it has not committed nobody was promised."""
    sys.stderr.flush()
    os._exit(code)


def _as_answer(error: StoreError) -> tuple[Any, ...]:
    match error:
        case StoreLocked():
            return (LOCKED, error.path, error.pid)
        case StoreUnusable():
            return (UNUSABLE, str(error))
        case StoreOverLimit():
            return (OVER_LIMIT, str(error))
        case StoreFull():
            return (FULL, str(error))
        case _:
            return (ERROR, str(error))


if __name__ == "__main__":
    main()
