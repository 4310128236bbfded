"""Questions that have no answer yet and topics that are followed: said again after a reconnect."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import anyio

from creche.errors import (
    ClientClosed,
    CrecheError,
    LocalProtocolError,
    NotEncodable,
    Refused,
    RemoteProtocolError,
)
from creche.peer.link import Link, fresh
from creche.wire import messages as m
from creche.wire.codec import decode_message, encode_message

MAX_OPEN = 16
"""Questions of one session that are open at a time; further ones wait here. The plane
refuses more than 32, and after a reconnect some may be open there that were asked before."""


class _Question:
    """Something asked and not answered; asked again after a reconnect, so it must bear that."""

    __slots__ = ("answer", "error", "event", "message")

    def __init__(self, message: m.Ask | m.Cancel) -> None:
        self.message = message
        self.event = anyio.Event()
        self.answer: Any = None
        self.error: CrecheError | None = None


class _Subscription:
    """The newest view of a topic, and whoever waits for the next."""

    def __init__(self, message: m.Subscribe) -> None:
        self.message = message
        self._newest: Any = None
        self._error: CrecheError | None = None
        self._has_news = anyio.Event()

    def offer(self, body: Any) -> None:
        self._newest = body
        self._has_news.set()

    def fail(self, error: CrecheError) -> None:
        self._error = error
        self._has_news.set()

    async def next(self) -> Any:
        await self._has_news.wait()
        if self._error is not None:
            raise fresh(self._error)
        self._has_news = anyio.Event()
        return self._newest


class Asking:
    """The questions and subscriptions of a session.

    Args:
        link: where they are said.
        time_limit: makes the bound of one question, queueing included.
        unanswered: makes the error of one that was not answered within it.
    """

    def __init__(
        self,
        link: Link,
        time_limit: Callable[[], anyio.CancelScope],
        unanswered: Callable[[], CrecheError],
    ) -> None:
        self._link = link
        self._time_limit = time_limit
        self._unanswered = unanswered
        self._refs = 0
        self._room = anyio.Semaphore(MAX_OPEN)
        self._questions: dict[int, _Question] = {}
        self._views: dict[int, _Subscription] = {}

    async def ask(self, make: Callable[[int], m.Ask | m.Cancel]) -> Any:
        """Ask what *make* makes of a number, and return the answer.

        Raises:
            Refused: the plane refuses it; `code` says why.
            NotEncodable: it holds something that a question cannot carry; nothing was sent.
            PlaneUnreachable: no answer in time.
        """
        message = make(self._next_ref())
        _check(message)
        self._check_open()
        question = _Question(message)
        with self._time_limit():
            async with self._room:
                self._check_open()
                self._questions[message.ref] = question
                try:
                    self._link.post(message)
                    await question.event.wait()
                finally:
                    self._questions.pop(message.ref, None)
        if question.error is not None:
            raise fresh(question.error)
        if not question.event.is_set():
            raise self._unanswered()
        return question.answer

    async def watch_topic(self, topic: str, hz: float) -> AsyncGenerator[Any, None]:
        """Yield views of *topic*; see `Submitter.watch_topic`."""
        message = m.Subscribe(self._next_ref(), topic, hz)
        _check(message)
        self._check_open()
        view = self._views[message.ref] = _Subscription(message)
        self._link.post(message)
        try:
            while True:
                yield await view.next()
        finally:
            if self._views.pop(message.ref, None) is not None:
                self._link.post(m.Unsubscribe(message.ref))

    def resume(self) -> Iterator[m.Message]:
        """Yield what to say on a new connection."""
        for question in self._questions.values():
            yield question.message
        for view in self._views.values():
            yield view.message

    def on_answer(self, message: m.Answer) -> None:
        """A question is answered."""
        question = self._questions.get(message.ref)
        if question is not None:
            question.answer = message.body
            question.event.set()

    def on_failed(self, message: m.AskFailed) -> None:
        """A question or a subscription is refused."""
        error = Refused(message.code, message.why)
        question = self._questions.get(message.ref)
        if question is not None:
            question.error = error
            question.event.set()
        view = self._views.pop(message.ref, None)
        if view is not None:
            view.fail(error)

    def on_view(self, message: m.View) -> None:
        """A topic looks different now."""
        view = self._views.get(message.ref)
        if view is not None:
            view.offer(message.body)

    def fail(self, error: CrecheError) -> None:
        """No answer will come any more."""
        for question in self._questions.values():
            question.error = error
            question.event.set()
        views = list(self._views.values())
        self._views.clear()
        for view in views:
            view.fail(error)

    def _next_ref(self) -> int:
        self._refs += 1
        return self._refs

    def _check_open(self) -> None:
        if self._link.has_failed:
            raise fresh(self._link.failure or ClientClosed("the client is closed"))


def _check(message: m.Ask | m.Cancel | m.Subscribe) -> None:
    """Raise if the plane could not read *message*: one odd parameter must not cost the session."""
    try:
        decode_message(encode_message(message))
    except (LocalProtocolError, RemoteProtocolError) as error:
        what = message.question if isinstance(message, m.Ask) else type(message).__name__.lower()
        raise NotEncodable(f"the question {what!r}", str(error)) from None
