"""A job's moves: what the table promises."""

from __future__ import annotations

import itertools

import pytest

from creche.model.job import MOVES, IllegalMove, JobState, check_move

ENDS = {
    JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.LOST, JobState.EXPIRED,
}  # fmt: skip
EVERY_STATE = pytest.mark.parametrize("state", list(JobState), ids=lambda state: state.word)


def reachable(state: JobState) -> set[JobState]:
    found: set[JobState] = set()
    new = {state}
    while new:
        found |= new
        new = {there for here in new for there in MOVES[here]} - found
    return found


def test_the_table_has_every_state() -> None:
    assert set(MOVES) == set(JobState)


@EVERY_STATE
def test_a_final_state_is_left_only_to_be_forgotten(state: JobState) -> None:
    assert state.has_ended == (state in {*ENDS, JobState.FORGOTTEN})
    if state in ENDS:
        assert MOVES[state] == {JobState.FORGOTTEN}
    else:
        assert JobState.FORGOTTEN not in MOVES[state]


def test_nothing_comes_back_from_being_forgotten() -> None:
    assert MOVES[JobState.FORGOTTEN] == frozenset()


@EVERY_STATE
def test_every_job_can_still_end(state: JobState) -> None:
    assert state is JobState.FORGOTTEN or reachable(state) & ENDS


@EVERY_STATE
def test_every_state_can_come_to_be(state: JobState) -> None:
    assert state in reachable(JobState.QUEUED)


@EVERY_STATE
def test_no_state_moves_to_itself(state: JobState) -> None:
    assert state not in MOVES[state]


def test_a_body_that_runs_is_asked_to_leave_and_never_put_back_meanwhile() -> None:
    assert MOVES[JobState.CANCELLING] <= ENDS
    assert {here for here in JobState if JobState.CANCELLING in MOVES[here]} == {JobState.RUNNING}


def test_only_what_runs_can_succeed_or_be_lost() -> None:
    for end in (JobState.SUCCEEDED, JobState.LOST):
        before = {here for here in JobState if end in MOVES[here]}
        assert before == {JobState.RUNNING, JobState.CANCELLING}


@pytest.mark.parametrize(
    ("here", "there"),
    list(itertools.product(JobState, JobState)),
    ids=lambda state: state.word,
)
def test_a_move_is_in_the_table_or_raises(here: JobState, there: JobState) -> None:
    if there in MOVES[here]:
        assert check_move(here, there) is there
    else:
        with pytest.raises(IllegalMove, match=f"from {here.word} to {there.word}"):
            check_move(here, there)


@EVERY_STATE
def test_a_state_is_read_from_its_word(state: JobState) -> None:
    for word in (state.word, state.word.upper(), f" {state.word.title()} "):
        assert JobState.parse(word) is state


@pytest.mark.parametrize("word", ["", "done", "4", "queued,parked"])
def test_another_word_is_no_state_and_the_error_lists_them(word: str) -> None:
    with pytest.raises(ValueError, match="is no job state: use one of queued, parked") as caught:
        JobState.parse(word)
    assert "forgotten" not in str(caught.value)


def test_the_numbers_are_those_on_disk_and_on_the_wire() -> None:
    assert {state.word: state.value for state in JobState} == {
        "queued": 1, "parked": 2, "delayed": 3, "running": 4, "cancelling": 5,
        "succeeded": 10, "failed": 11, "cancelled": 12, "lost": 13, "expired": 14,
        "forgotten": 20,
    }  # fmt: skip
