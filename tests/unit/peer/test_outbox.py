"""What waits in an outbox leaves in frames that the other side can put together."""

from __future__ import annotations

import pytest
import trio

from creche.peer.outbox import PATIENCE_S, Outbox
from creche.wire import codec
from creche.wire import messages as m


def submission(n: int, size: int) -> m.Submit:
    return m.Submit(n, n.to_bytes(16, "big"), "resize", None, None, b"x" * size, 0, None)


def test_more_large_messages_than_streams_arrive_all_the_same() -> None:
    limits = codec.Limits(piece_bytes=100, streams=3)
    outbox = Outbox(limits)
    sent = [submission(n, 100 * n) for n in range(1, 12)]
    outbox.put_all(sent)
    assembler = codec.Assembler(limits)
    arrived: list[m.Message] = []
    while frame := outbox.take():
        for message in frame:
            whole = assembler.add(message) if type(message) is m.Piece else message
            if whole is not None:
                arrived.append(whole)
    assert sorted(arrived, key=lambda message: message[0]) == sent
    assert outbox.size_bytes == 0


def test_a_small_message_waits_behind_one_piece_at_most() -> None:
    outbox = Outbox(codec.Limits(piece_bytes=1000))
    outbox.put(submission(1, 10_000))
    assert [type(message) for message in outbox.take()] == [m.Piece]
    outbox.put(m.Ping(1))
    assert outbox.take()[0] == m.Ping(1)


def test_a_goodbye_is_the_last_word() -> None:
    outbox = Outbox(codec.Limits(piece_bytes=200))
    outbox.put(submission(1, 300))
    outbox.put(m.Goodbye("enough"))
    outbox.put(m.Ping(1))
    outbox.put(submission(2, 1))
    words: list[m.Message] = []
    while frame := outbox.take():
        words += frame
    assert {type(word) for word in words[:-1]} == {m.Piece}
    assert words[-1] == m.Goodbye("enough")
    assert outbox.is_finished
    assert not outbox
    assert outbox.size_bytes == 0
    # A new connection is a new beginning.
    outbox.clear()
    outbox.put(m.Ping(2))
    assert outbox.take() == [m.Ping(2)]


@pytest.mark.trio
async def test_what_nobody_waits_for_leaves_with_the_next_message_or_after_a_while(autojump_clock):
    outbox = Outbox()
    left: list[tuple[float, list[m.Message]]] = []
    began = trio.current_time()

    async def send() -> None:
        while True:
            await outbox.wait()
            left.append((round(trio.current_time() - began, 3), outbox.take()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.sleep(1)
        # Behind a wait that had begun, and before one begins: the first is given its while too.
        outbox.put(m.Settled([1]))
        await trio.sleep(PATIENCE_S / 2)
        outbox.put(m.Settled([2]))
        await trio.sleep(1 - PATIENCE_S / 2)
        outbox.put(m.Received([b"1" * 16]))
        await trio.sleep(PATIENCE_S / 2)
        outbox.put(m.Ping(1))
        outbox.put(m.Settled([3]))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert left == [
        (1 + PATIENCE_S, [m.Settled([1]), m.Settled([2])]),
        (2 + PATIENCE_S / 2, [m.Received([b"1" * 16]), m.Ping(1), m.Settled([3])]),
    ]
