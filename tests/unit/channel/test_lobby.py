"""So many connections whose peers have said nothing, and the many go before the few."""

from __future__ import annotations

from contextlib import ExitStack

from creche.channel.lobby import Lobby


def test_the_oldest_goes_for_a_new_one_and_those_let_in_stay() -> None:
    with ExitStack() as stack:
        lobby = Lobby(3)
        first, second, third = (stack.enter_context(lobby.place("a")) for _ in range(3))
        first.leave()
        fourth = stack.enter_context(lobby.place("a"))
        assert not second.was_given_up
        fifth = stack.enter_context(lobby.place("a"))
        assert [p.was_given_up for p in (first, second, third, fourth, fifth)] == [
            False, True, False, False, False,
        ]  # fmt: skip
        assert second.scope.cancel_called
        assert len(lobby) == 3
    assert len(lobby) == 0


def test_an_address_that_has_most_makes_room_for_all_others() -> None:
    with ExitStack() as stack:
        lobby = Lobby(10)
        slow = stack.enter_context(lobby.place("slow"))
        many = [stack.enter_context(lobby.place("many")) for _ in range(100)]
        other = stack.enter_context(lobby.place("other"))
        assert not slow.was_given_up
        assert not other.was_given_up
        assert sum(not place.was_given_up for place in many) == 8
    assert len(lobby) == 0
