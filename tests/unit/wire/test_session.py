"""Who may say what, when: every (role, phase, message), against a list of sentences."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.wire.strategies import messages, sample

from creche.errors import LocalProtocolError, RemoteProtocolError
from creche.wire import codec
from creche.wire import messages as m
from creche.wire.session import MOVES, Grammar, Phase, Role

OPENING, INTRODUCED, READY, CLOSED = Phase.OPENING, Phase.INTRODUCED, Phase.READY, Phase.CLOSED

# Written from docs/protocol.md, not from the table.
SENTENCES = """
a client or worker while opening says Hello, and is then introduced
the plane while introduced says Welcome, and is then ready
the plane while opening says Refusal, and is then closed
the plane while introduced says Refusal, and is then closed
the plane while ready says Refusal Goodbye, and is then closed
a client or worker while ready says Goodbye, and is then closed
anyone while ready says Ping Pong Piece
a client or worker while ready says Submit Watch Unwatch Received Cancel Ask Subscribe Unsubscribe
a worker while ready says Announce Capacity Finished TryAgain HandBack
the plane while ready says Accepted Declined Existing Warned Ended Missing Answer AskFailed View
the plane while ready says Offer Settled Stop Drain Resize
"""
WHO = {
    "a client or worker": [Role.CLIENT, Role.WORKER],
    "a worker": [Role.WORKER],
    "the plane": [Role.PLANE],
    "anyone": list(Role),
}


def told() -> dict[tuple[Role, Phase, str], Phase]:
    legal = {}
    for sentence in SENTENCES.strip().splitlines():
        head, _, then = sentence.partition(", and is then ")
        who, _, rest = head.partition(" while ")
        phase, _, names = rest.partition(" says ")
        for role, name in itertools.product(WHO[who], names.split()):
            legal[role, Phase(phase), name] = Phase(then or phase)
    return legal


LEGAL = told()
TRIPLES = list(itertools.product(Role, Phase, m.KIND_OF))


def grammar_in(phase: Phase, role: Role, peer: Role) -> Grammar:
    """One side of a connection, brought to *phase* by what both sides said."""
    grammar = Grammar(role, peer)
    for step, who, message in (
        (INTRODUCED, peer if role is Role.PLANE else role, sample(m.Hello)),
        (READY, Role.PLANE, sample(m.Welcome)),
        (CLOSED, Role.PLANE, sample(m.Goodbye)),
    ):
        if grammar.phase is phase:
            break
        assert grammar.phase is not step
        if who is role:
            grammar.send([message])
        else:
            grammar.receive(codec.encode_frame([message]))
    assert grammar.phase is phase
    return grammar


def pair(role: Role = Role.WORKER) -> tuple[Grammar, Grammar]:
    """The plane's side and the peer's, both ready."""
    return grammar_in(READY, Role.PLANE, role), grammar_in(READY, role, Role.PLANE)


def test_the_table_says_what_the_sentences_say() -> None:
    table = {(role, phase, kind.__name__): then for (role, phase, kind), then in MOVES.items()}
    assert table == LEGAL


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("phase", [OPENING, INTRODUCED, READY])
def test_only_what_is_legal_can_be_sent(role: Role, phase: Phase) -> None:
    peer = Role.WORKER if role is Role.PLANE else Role.PLANE
    for kind in m.KIND_OF:
        grammar = grammar_in(phase, role, peer)
        then = LEGAL.get((role, phase, kind.__name__))
        if then is None:
            with pytest.raises(LocalProtocolError, match=f"may not send {kind.__name__} while"):
                grammar.send([sample(kind)])
            assert grammar.phase is phase
        else:
            assert codec.decode_frame(grammar.send([sample(kind)])) == [sample(kind)]
            assert grammar.phase is then


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("phase", [OPENING, INTRODUCED, READY])
def test_only_what_is_legal_is_received(role: Role, phase: Phase) -> None:
    listener = Role.CLIENT if role is Role.PLANE else Role.PLANE
    for kind in m.KIND_OF:
        if kind is m.Piece:
            continue
        grammar = grammar_in(phase, listener, role)
        then = LEGAL.get((role, phase, kind.__name__))
        frame = codec.encode_frame([sample(kind)])
        if then is None:
            with pytest.raises(RemoteProtocolError, match=f"{role.value} may not send"):
                grammar.receive(frame)
            assert grammar.phase is phase
        else:
            assert grammar.receive(frame) == [sample(kind)]
            assert grammar.phase is then


def test_an_error_late_in_a_frame_changes_no_phase() -> None:
    grammar = grammar_in(INTRODUCED, Role.CLIENT, Role.PLANE)
    with pytest.raises(RemoteProtocolError):
        grammar.receive(codec.encode_frame([sample(m.Welcome), sample(m.Announce)]))
    assert grammar.phase is INTRODUCED


def test_a_peer_says_hello_once() -> None:
    plane = Grammar(Role.PLANE, Role.CLIENT)
    with pytest.raises(RemoteProtocolError):
        plane.receive(codec.encode_frame([sample(m.Hello), sample(m.Hello)]))
    client = Grammar(Role.CLIENT, Role.PLANE)
    client.send([sample(m.Hello)])
    with pytest.raises(LocalProtocolError):
        client.send([sample(m.Hello)])


def test_a_welcome_and_what_follows_it_may_share_a_frame() -> None:
    grammar = grammar_in(INTRODUCED, Role.WORKER, Role.PLANE)
    frame = codec.encode_frame([sample(m.Welcome), sample(m.Offer)])
    assert grammar.receive(frame) == [sample(m.Welcome), sample(m.Offer)]


@pytest.mark.parametrize("role", [Role.CLIENT, Role.WORKER])
def test_after_its_last_word_a_side_says_nothing_more(role: Role) -> None:
    plane, peer = pair(role)
    plane.receive(peer.send([m.Goodbye("done")]))
    for kind in m.KIND_OF:
        with pytest.raises(LocalProtocolError):
            peer.send([sample(kind)])
        with pytest.raises(RemoteProtocolError):
            plane.receive(codec.encode_frame([sample(kind)]))
    assert plane.phase is peer.phase is CLOSED


def test_nothing_may_follow_a_last_word_in_its_frame() -> None:
    plane, _ = pair()
    with pytest.raises(RemoteProtocolError):
        plane.receive(codec.encode_frame([m.Goodbye(""), m.Ping(1)]))


def test_what_crosses_a_last_word_on_its_way_is_nobodys_fault() -> None:
    plane, worker = pair()
    goodbye, offer = worker.send([m.Goodbye("done")]), plane.send([sample(m.Offer)])
    assert worker.receive(offer) == [sample(m.Offer)]
    plane.receive(goodbye)
    # A sender that had not looked yet is no bug either.
    assert worker.receive(plane.send([m.Pong(1)])) == [m.Pong(1)]


# --- pieces --------------------------------------------------------------------------------------


def large(size: int) -> m.Submit:
    return m.Submit(1, b"i" * 16, "resize", None, None, b"x" * size, 0, None)


@pytest.mark.parametrize("piece_bytes", [1, 7, 64])
def test_what_is_cut_is_put_together_again(piece_bytes: int) -> None:
    for message in (m.Ping(1), large(0), large(1), large(100)):
        data = codec.encode_message(message)
        assembler = codec.Assembler()
        pieces = list(codec.cut(3, data, piece_bytes))
        assert [assembler.add(piece) for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
        assert assembler.add(pieces[-1]) == message


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 19, 20, 21, 30])
def test_pieces_are_whole_but_for_the_last_and_none_is_empty(size: int) -> None:
    data = bytes(range(size))
    pieces = list(codec.cut(1, data, 10))
    assert b"".join(piece.data for piece in pieces) == data
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(len(piece.data) == 10 for piece in pieces[:-1])
    assert len(pieces) == max(1, -(-size // 10))


@given(st.lists(messages(m.Submit, m.Watch, m.Ask), min_size=1, max_size=4), st.randoms())
def test_messages_in_pieces_arrive_whatever_is_between(sent: list[m.Message], dice: Any) -> None:
    plane, client = pair(Role.CLIENT)
    waiting = [
        list(codec.cut(stream, codec.encode_message(message), 20))
        for stream, message in enumerate(sent)
    ]
    arrived: list[m.Message] = []
    pings = 0
    while waiting:
        pieces = dice.choice(waiting)
        pings += 1
        arrived += plane.receive(client.send([m.Ping(pings), pieces.pop(0)]))
        waiting = [rest for rest in waiting if rest]
    assert [message for message in arrived if type(message) is m.Ping] == [
        m.Ping(n + 1) for n in range(pings)
    ]
    rest = [message for message in arrived if type(message) is not m.Ping]
    assert sorted(rest, key=repr) == sorted(sent, key=repr)


def test_pieces_hold_no_piece() -> None:
    plane, client = pair(Role.CLIENT)
    inner = codec.encode_message(m.Piece(1, True, codec.encode_message(m.Ping(1))))
    with pytest.raises(RemoteProtocolError, match="may not send Piece"):
        plane.receive(client.send([m.Piece(2, True, inner)]))
    assert plane.phase is READY


@pytest.mark.parametrize("kind", [m.Hello, m.Welcome, m.Offer, m.Accepted, m.Announce])
def test_pieces_hold_nothing_that_may_not_be_said(kind: type[Any]) -> None:
    plane, client = pair(Role.CLIENT)
    with pytest.raises(RemoteProtocolError, match=f"may not send {kind.__name__}"):
        plane.receive(client.send(codec.cut(1, codec.encode_message(sample(kind)), 10)))


def test_a_last_word_in_pieces_is_the_last_word() -> None:
    plane, client = pair(Role.CLIENT)
    plane.receive(client.send(codec.cut(1, codec.encode_message(m.Goodbye("done")), 3)))
    assert plane.phase is CLOSED


@given(st.binary(max_size=60))
def test_garbage_in_pieces_raises_the_one_error(garbage: bytes) -> None:
    plane, client = pair(Role.CLIENT)
    frame = client.send(codec.cut(1, garbage, 7))
    try:
        plane.receive(frame)
    except RemoteProtocolError:
        return
    assert codec.decode_message(garbage)


def test_pieces_add_up_to_the_limit_of_a_message_and_no_further() -> None:
    message = large(50)
    data = codec.encode_message(message)
    fits = codec.Assembler(codec.Limits(message_bytes=len(data)))
    assert [fits.add(piece) for piece in codec.cut(1, data, 10)][-1] == message
    tight = codec.Assembler(codec.Limits(message_bytes=len(data) - 1))
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        for piece in codec.cut(1, data, 10):
            tight.add(piece)


def test_so_many_messages_in_pieces_at_a_time_and_no_more() -> None:
    assembler = codec.Assembler(codec.Limits(streams=2))
    data = codec.encode_message(m.Ping(1))
    assert assembler.add(m.Piece(1, False, b"")) is None
    assert assembler.add(m.Piece(2, False, b"")) is None
    with pytest.raises(RemoteProtocolError, match="too many"):
        assembler.add(m.Piece(3, False, b""))
    assert assembler.add(m.Piece(1, True, data)) == m.Ping(1)
    assert assembler.add(m.Piece(3, True, data)) == m.Ping(1)  # there is room again


def test_pieces_without_end_take_bounded_memory() -> None:
    limits = codec.Limits(message_bytes=100_000, streams=4)
    assembler = codec.Assembler(limits)
    chunk = b"x" * 1000
    tracemalloc.start()
    try:
        for stream in range(10):
            for _ in range(200):
                try:
                    assembler.add(m.Piece(stream, False, chunk))
                except RemoteProtocolError:
                    break
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * limits.streams * limits.message_bytes


@given(st.binary(max_size=100))
def test_whatever_arrives_the_phase_stays_or_the_message_was_legal(garbage: bytes) -> None:
    plane = grammar_in(OPENING, Role.PLANE, Role.CLIENT)
    with pytest.raises(RemoteProtocolError):
        plane.receive(garbage + b"\xff")
    assert plane.phase is OPENING
