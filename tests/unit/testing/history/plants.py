"""Histories in which one promise is broken: the checker must refuse each, with that violation and
no other. Their names are what has happened."""

from __future__ import annotations

from collections.abc import Callable

from tests.unit.testing.history.story import Story

from creche.testing import history as h

Plant = Callable[[], Story]

PLANTS: dict[str, tuple[type[h.Violation], Plant]] = {}


def breaks(violation: type[h.Violation]) -> Callable[[Plant], Plant]:
    """Tell which promise a history breaks."""

    def planted(plant: Plant) -> Plant:
        PLANTS[plant.__name__] = violation, plant
        return plant

    return planted


# --- ends ---------------------------------------------------------------------------------------


@breaks(h.NoEnd)
def an_accepted_job_has_no_end_when_all_is_over() -> Story:
    return Story().takes(0, "a").runs(1, 2, "a", outcome="failed").is_over(60)


@breaks(h.NoEnd)
def a_plane_that_was_killed_has_forgotten_a_job() -> Story:
    story = Story().takes(0, "a").kills(1, "plane", "plane")
    return story.tell(2, h.Back, who="plane", role="plane").is_over(60)


@breaks(h.NoEnd)
def the_job_of_a_firing_has_no_end() -> Story:
    story = Story().tell(0, h.Scheduled, schedule="s", moments=(10.0,))
    return story.tell(11, h.Fired, schedule="s", moment=10.0, job="a").is_over(60)


@breaks(h.NoEnd)
def a_submission_that_met_a_job_of_which_nothing_comes() -> Story:
    story = Story().submits(0, "a", idempotency_key="k").is_uncertain(5, "a")
    story.submits(6, "b", idempotency_key="k").accepts(7, "a", call="b")
    return story.is_over(60)


@breaks(h.TwoEnds)
def a_job_is_seen_as_succeeded_and_as_failed() -> Story:
    story = Story().takes(0, "a", retries=1).runs(1, 2, "a", outcome="failed").runs(3, 4, "a", "2")
    return story.sees(5, "a", "succeeded").sees(5, "a", "failed")


@breaks(h.CameBack)
def a_job_runs_that_was_seen_to_have_ended() -> Story:
    story = Story().takes(0, "a").runs(1, 2, "a").sees(3, "a", "succeeded")
    return story.sees(5, "a", "running", asked_at=3.5)


@breaks(h.CameBack)
def a_job_is_queued_in_the_moment_after_it_was_forgotten() -> Story:
    return Story().takes(0, "a").runs(1, 2, "a").sees(3, "a", "forgotten").sees(3, "a", "queued")


@breaks(h.Vanished)
def an_accepted_job_is_unknown() -> Story:
    return Story().takes(0, "a").sees(3, "a", "unknown", asked_at=2)


@breaks(h.NoReason)
def a_job_is_cancelled_that_nobody_has_cancelled() -> Story:
    return Story().takes(0, "a").sees(3, "a", "cancelled")


@breaks(h.NoReason)
def a_job_is_lost_that_may_run_again() -> Story:
    return Story().takes(0, "a").starts(1, "a").loses(2, "a").sees(3, "a", "lost")


@breaks(h.NoReason)
def a_job_expires_that_has_no_end_of_its_time() -> Story:
    return Story().takes(0, "a").sees(3, "a", "expired")


@breaks(h.NoReason)
def a_job_is_replaced_where_the_rule_is_to_keep_it() -> Story:
    return Story().takes(0, "a", unique_key="k").sees(3, "a", "cancelled")


@breaks(h.TwoResults)
def two_readers_see_results_of_two_attempts() -> Story:
    story = Story().takes(0, "a", retries=1).runs(1, 2, "a", value="r1")
    story.runs(3, 4, "a", "2", value="r2")
    return story.sees(5, "a", "succeeded", "r1").sees(6, "a", "succeeded", "r2")


@breaks(h.UnknownResult)
def a_result_is_seen_that_nobody_has_made() -> Story:
    return Story().takes(0, "a").runs(1, 2, "a", value="r1").sees(3, "a", "succeeded", "r2")


@breaks(h.UnknownResult)
def a_job_has_succeeded_that_nobody_has_run() -> Story:
    return Story().takes(0, "a").sees(3, "a", "succeeded")


@breaks(h.UnknownResult)
def a_job_has_succeeded_whose_attempt_has_failed() -> Story:
    return Story().takes(0, "a").runs(1, 2, "a", outcome="failed").sees(3, "a", "succeeded")


@breaks(h.UnknownResult)
def a_job_has_the_result_of_another_one() -> Story:
    story = Story().takes(0, "a").takes(0, "b").runs(1, 2, "a", value="ra")
    return story.runs(1, 2, "b", value="rb").sees(3, "a", "succeeded", "rb")


@breaks(h.LateResult)
def a_result_is_seen_that_was_made_after_the_lease_was_lost() -> Story:
    story = Story().takes(0, "a").starts(1, "a").loses(5, "a").ends(6, "a", value="r1")
    return story.sees(7, "a", "succeeded", "r1")


@breaks(h.LateResult)
def a_result_is_seen_that_was_made_before_the_lease_was_lost_and_reported_after() -> Story:
    story = Story().takes(0, "a").runs(1, 4, "a", value="r1").loses(5, "a")
    return story.runs(6, 7, "a", "2", value="r2").sees(8, "a", "succeeded", "r1")


@breaks(h.LateResult)
def a_result_is_seen_whose_lease_was_lost_before_the_next_attempt_and_the_plane_was_killed() -> (
    Story
):
    story = Story().takes(0, "a").runs(1, 4, "a", value="r1").loses(5, "a")
    story.starts(6, "a", "2").kills(7, "plane", "plane").tell(8, h.Back, who="plane", role="plane")
    return story.sees(9, "a", "succeeded", "r1")


@breaks(h.FailedEarly)
def a_job_has_failed_with_retries_left() -> Story:
    story = Story().takes(0, "a", retries=3).runs(1, 2, "a", outcome="failed")
    return story.sees(3, "a", "failed")


@breaks(h.FailedEarly)
def a_job_has_failed_that_nobody_has_run() -> Story:
    return Story().takes(0, "a").sees(3, "a", "failed")


@breaks(h.FailedEarly)
def a_job_has_failed_whose_attempt_has_succeeded() -> Story:
    return Story().takes(0, "a").runs(1, 2, "a").sees(3, "a", "failed")


@breaks(h.FailedEarly)
def a_job_has_failed_when_one_worker_was_lost_and_two_may_be() -> Story:
    story = Story().takes(0, "a", max_losses=2).starts(1, "a").loses(2, "a")
    return story.sees(3, "a", "failed")


@breaks(h.FailedEarly)
def a_lost_lease_was_counted_as_a_failure() -> Story:
    story = Story().takes(0, "a", retries=1, max_losses=9).starts(1, "a").loses(2, "a")
    return story.runs(3, 4, "a", "2", outcome="failed").sees(5, "a", "failed")


@breaks(h.ExpiredEarly)
def a_job_has_expired_that_may_begin_for_an_hour() -> Story:
    return Story().takes(0, "a", expires_s=3600).sees(9, "a", "expired")


@breaks(h.ExpiredEarly)
def a_job_has_expired_before_its_deadline() -> Story:
    return Story().takes(0, "a", expires_s=60, deadline_at=20).sees(19, "a", "expired")


@breaks(h.LostUnasked)
def a_job_is_told_lost_whose_attempt_has_ended() -> Story:
    story = Story().takes(0, "a", is_at_most_once=True).runs(1, 2, "a", value="r")
    return story.sees(3, "a", "lost")


@breaks(h.CancelBelied)
def a_job_has_succeeded_that_was_cancelled_before() -> Story:
    story = Story().takes(0, "a").runs(1, 2, "a").cancels(3, "a", "cancelled")
    return story.sees(4, "a", "succeeded")


@breaks(h.CancelBelied)
def a_job_waits_that_was_cancelled() -> Story:
    story = Story().takes(0, "a").cancels(1, "a", "cancelled")
    return story.sees(3, "a", "queued", asked_at=2)


@breaks(h.CancelBelied)
def a_job_is_lost_that_was_to_be_cancelled() -> Story:
    story = Story().takes(0, "a", is_at_most_once=True).starts(1, "a").cancels(2, "a", "cancelling")
    return story.loses(3, "a").sees(4, "a", "lost")


@breaks(h.CancelBelied)
def an_accepted_job_is_unknown_to_who_cancels_it() -> Story:
    return Story().takes(0, "a").cancels(1, "a", "unknown").runs(2, 3, "a")


# --- attempts -----------------------------------------------------------------------------------


@breaks(h.StartedAfterEnd)
def an_attempt_begins_after_its_result_was_seen() -> Story:
    story = Story().takes(0, "a", retries=5).runs(1, 2, "a").sees(3, "a", "succeeded")
    return story.runs(4, 5, "a", "2")


@breaks(h.StartedAfterEnd)
def an_attempt_begins_in_the_moment_in_which_the_end_was_seen_and_after_it() -> Story:
    story = Story().takes(0, "a", retries=None).runs(1, 2, "a", outcome="failed")
    return story.sees(3, "a", "failed").runs(3, 3, "a", "2", outcome="failed")


@breaks(h.StartedAfterEnd)
def an_attempt_begins_under_a_lease_that_is_lost_later() -> Story:
    story = Story().takes(0, "a").runs(1, 2, "a").sees(3, "a", "succeeded")
    return story.starts(4, "a", "2").loses(5, "a", "2")


@breaks(h.StartedAfterEnd)
def an_expired_job_begins() -> Story:
    return Story().takes(0, "a", expires_s=2).sees(2.5, "a", "expired").runs(3, 4, "a")


@breaks(h.StartedAfterEnd)
def a_result_was_told_before_it_was_on_disk_and_the_plane_was_killed() -> Story:
    story = Story().takes(0, "a", retries=1).runs(1, 2, "a").sees(3, "a", "succeeded")
    story.kills(3.1, "plane", "plane").tell(3.2, h.Back, who="plane", role="plane")
    return story.runs(3.3, 4, "a", "2")


@breaks(h.RanBeyondEnd)
def a_job_is_cancelled_while_its_body_runs() -> Story:
    story = Story().takes(0, "a").starts(1, "a").cancels(2, "a", "cancelling")
    return story.sees(3, "a", "cancelled").ends(4, "a", outcome="left")


@breaks(h.RanBeyondEnd)
def a_job_has_ended_before_its_lease_was_lost() -> Story:
    story = Story().takes(0, "a", is_at_most_once=True).starts(1, "a").sees(3, "a", "lost")
    return story.loses(4, "a").is_over(60)


@breaks(h.StartedAfterCancel)
def a_job_begins_that_was_cancelled_before() -> Story:
    return Story().takes(0, "a").cancels(1, "a", "cancelled").runs(2, 3, "a")


@breaks(h.StartedAfterCancel)
def a_job_is_tried_again_that_was_cancelled_while_it_ran() -> Story:
    story = Story().takes(0, "a", retries=5).starts(1, "a").cancels(2, "a", "cancelling")
    return story.ends(3, "a", outcome="failed").runs(4, 5, "a", "2")


@breaks(h.StartedAfterCancel)
def a_job_begins_twice_that_was_cancelled_while_it_was_on_its_way() -> Story:
    story = Story().takes(0, "a", retries=5).cancels(1, "a", "cancelling")
    return story.runs(2, 3, "a", outcome="failed").runs(4, 5, "a", "2")


@breaks(h.RanBeyondLease)
def a_body_runs_on_beside_the_one_that_has_taken_its_place() -> Story:
    story = Story().takes(0, "a").starts(1, "a").loses(30, "a")
    story.runs(31, 90, "a", "2", process="other", value="r2").ends(62, "a", value="r1")
    return story.sees(400, "a", "succeeded", "r2")


@breaks(h.RanBeyondCancel)
def a_body_runs_on_for_an_hour_when_its_job_was_cancelled() -> Story:
    story = Story().joins(0, "worker").takes(0, "a").starts(1, "a").cancels(2, "a", "cancelling")
    return story.ends(3600, "a").sees(3601, "a", "succeeded")


@breaks(h.RanBeyondCancel)
def a_cancelled_body_runs_on_whose_worker_was_away_and_is_back() -> Story:
    story = Story().joins(0, "worker").takes(0, "a").starts(1, "a")
    story.tell(2, h.Severed, who="worker", role="worker").joins(3, "worker")
    return story.cancels(4, "a", "cancelling").tell(6, h.Severed, who="worker", role="worker")


@breaks(h.BegunTwice)
def an_attempt_is_offered_twice_and_begins_twice() -> Story:
    return Story().takes(0, "a", retries=5).runs(1, 2, "a").runs(3, 4, "a")


@breaks(h.TooManyAttempts)
def a_job_is_tried_once_more_than_it_may() -> Story:
    story = Story().takes(0, "a", retries=1)
    for n in range(3):
        story.runs(10 * n, 10 * n + 1, "a", f"{n}", outcome="failed")
    return story.sees(60, "a", "failed")


@breaks(h.TooManyAttempts)
def a_job_runs_again_though_no_lease_was_lost() -> Story:
    return Story().takes(0, "a").starts(1, "a").kills(2, "worker").runs(9, 10, "a", "2")


@breaks(h.TooManyAttempts)
def one_lost_lease_is_two_more_attempts() -> Story:
    story = Story().takes(0, "a").starts(1, "a").loses(2, "a")
    return story.runs(3, 4, "a", "2", outcome="failed").runs(5, 6, "a", "3")


@breaks(h.TooManyAttempts)
def a_job_that_is_submitted_again_runs_again() -> Story:
    story = Story().submits(0, "a").is_uncertain(1, "a").runs(1, 2, "a")
    story.tell(5, h.Submit, call="again", job="a").tell(6, h.Accepted, call="again", job="a")
    return story.runs(7, 8, "a", "2")


@breaks(h.TooManyAttempts)
def a_plane_that_is_killed_long_after_an_attempt_began_gives_it_to_another() -> Story:
    story = Story().takes(0, "a").starts(1, "a").kills(10, "plane", "plane")
    story.tell(10.2, h.Back, who="plane", role="plane")
    return story.runs(10.3, 13, "a", "2").ends(14, "a", "1")


@breaks(h.RanTwice)
def what_is_to_run_at_most_once_runs_again_when_its_worker_was_lost() -> Story:
    story = Story().takes(0, "a", is_at_most_once=True).starts(1, "a").loses(2, "a")
    return story.runs(3, 4, "a", "2")


@breaks(h.RanTwice)
def what_is_to_run_at_most_once_runs_again_when_the_plane_was_killed() -> Story:
    story = Story().takes(0, "a", is_at_most_once=True).starts(1, "a")
    return story.kills(1.1, "plane", "plane").runs(3, 4, "a", "2").ends(5, "a")


@breaks(h.StartedEarly)
def a_delayed_job_begins_before_its_time() -> Story:
    return Story().takes(10, "a", delay_s=5).runs(14.9, 16, "a")


@breaks(h.StartedEarly)
def a_job_for_later_begins_before_its_moment() -> Story:
    return Story().takes(10, "a", not_before_at=50).runs(49.5, 51, "a")


@breaks(h.RetriedEarly)
def a_job_is_tried_again_without_its_wait() -> Story:
    story = Story().takes(0, "a", retries=3, backoff_s=4)
    return story.runs(1, 2, "a", outcome="failed").runs(5.9, 7, "a", "2")


@breaks(h.RetriedEarly)
def the_wait_does_not_grow() -> Story:
    story = Story().takes(0, "a", retries=3, backoff_s=4, jitter=0.25)
    story.runs(1, 2, "a", outcome="failed").runs(5, 6, "a", "2", outcome="failed")
    return story.runs(11.9, 12, "a", "3")


@breaks(h.RetriedEarly)
def a_job_that_was_too_early_is_not_let_wait() -> Story:
    return (
        Story().takes(0, "a").runs(1, 2, "a", outcome="snoozed", delay_s=9).runs(10, 11, "a", "2")
    )


@breaks(h.StartedExpired)
def a_job_begins_that_should_have_begun_long_ago() -> Story:
    return Story().takes(0, "a", expires_s=5).runs(6.2, 7, "a")


@breaks(h.BeyondDeadline)
def a_job_begins_after_its_deadline() -> Story:
    return Story().takes(0, "a", deadline_at=5).runs(6.2, 6.3, "a")


@breaks(h.BeyondDeadline)
def a_body_runs_beyond_its_deadline() -> Story:
    return Story().takes(0, "a", deadline_at=5).runs(2, 6.2, "a")


@breaks(h.BeyondDeadline)
def a_thread_begins_after_its_deadline() -> Story:
    return Story().takes(0, "a", deadline_at=5).runs(6.2, 6.3, "a", is_reachable=False)


@breaks(h.OverTime)
def a_body_runs_longer_than_it_may() -> Story:
    return Story().takes(0, "a", timeout_s=5).runs(1, 7.2, "a")


@breaks(h.OverTime)
def a_body_that_never_leaves_runs_longer_than_it_may() -> Story:
    return Story().takes(0, "a", timeout_s=5).starts(1, "a").takes(9, "b")


# --- submissions --------------------------------------------------------------------------------


@breaks(h.Invented)
def a_job_runs_that_nobody_has_submitted() -> Story:
    return Story().takes(0, "a").runs(1, 2, "b")


@breaks(h.RanThoughRefused)
def a_job_runs_that_was_refused() -> Story:
    return Story().submits(0, "a").refuses(1, "a").runs(2, 3, "a")


@breaks(h.RanThoughRefused)
def a_job_runs_whose_submission_was_refused_as_its_arguments_say() -> Story:
    story = Story().tell(0, h.Submit, call="c1").tell(1, h.Refused, call="c1")
    return story.runs(2, 3, "a", call="c1")


@breaks(h.RanAsTwo)
def a_submission_of_which_nobody_knows_runs_as_two_jobs() -> Story:
    story = Story().tell(0, h.Submit, call="c1").tell(5, h.Uncertain, call="c1")
    return story.runs(2, 3, "a", call="c1").runs(2, 3, "b", call="c1")


@breaks(h.RanAsTwo)
def a_submission_runs_as_another_job_than_its_client_was_told() -> Story:
    story = Story().takes(0, "a").takes(0, "b")
    return story.runs(1, 2, "b", call="a").runs(1, 2, "a", call="a")


@breaks(h.MetStranger)
def a_submission_is_told_that_it_is_a_job_without_its_key() -> Story:
    story = Story().takes(0, "a", idempotency_key="k1")
    return story.submits(1, "b", idempotency_key="k2").accepts(2, "a", call="b")


@breaks(h.MetStranger)
def a_submission_is_told_that_it_is_a_job_of_another_task() -> Story:
    story = Story().takes(0, "a", task="t1", idempotency_key="k")
    return story.submits(1, "b", task="t2", idempotency_key="k").accepts(2, "a", call="b")


@breaks(h.MetTheDead)
def a_submission_is_told_that_it_is_a_job_which_has_ended() -> Story:
    story = Story().takes(0, "a", unique_key="k").runs(1, 2, "a").sees(3, "a", "succeeded")
    return story.submits(50, "b", unique_key="k").accepts(51, "a", call="b")


@breaks(h.MetTheDead)
def a_submission_is_told_that_it_is_a_job_which_was_cancelled() -> Story:
    story = Story().takes(0, "a", unique_key="k").cancels(1, "a", "cancelled")
    story.sees(3, "a", "cancelled")
    return story.submits(4, "b", unique_key="k").accepts(5, "a", call="b")


@breaks(h.KeyIsTwoJobs)
def an_idempotency_key_is_accepted_as_two_jobs() -> Story:
    return Story().takes(0, "a", idempotency_key="k").takes(0.05, "b", idempotency_key="k")


@breaks(h.KeyIsTwoJobs)
def a_submission_of_which_nobody_knows_runs_beside_the_one_with_its_key() -> Story:
    story = Story().submits(0, "a", idempotency_key="k").is_uncertain(5, "a")
    return story.takes(6, "b", idempotency_key="k").runs(7, 8, "a").runs(9, 10, "b")


@breaks(h.TwoLiveJobs)
def a_job_is_accepted_beside_one_that_waits() -> Story:
    story = Story().takes(0, "a", unique_key="k").takes(1, "b", unique_key="k")
    return story.runs(2, 3, "a").runs(4, 5, "b")


@breaks(h.TwoLiveJobs)
def a_job_is_accepted_beside_one_that_runs() -> Story:
    story = Story().takes(0, "a", unique_key="k", on_duplicate="reject").starts(0.5, "a")
    return story.takes(1, "b", unique_key="k", on_duplicate="reject").ends(2, "a")


@breaks(h.TwoLiveJobs)
def two_jobs_are_accepted_at_once() -> Story:
    story = Story().submits(0, "a", unique_key="k").submits(0, "b", unique_key="k")
    story.accepts(1, "a").accepts(1, "b")
    return story.runs(2, 3, "a").runs(4, 5, "b")


@breaks(h.ReplacedStarted)
def a_job_begins_that_was_replaced_while_it_waited() -> Story:
    story = Story().takes(0, "a", unique_key="k", on_duplicate="replace")
    return story.takes(1, "b", unique_key="k", on_duplicate="replace").runs(9, 10, "a")


@breaks(h.ReplacedStarted)
def a_job_is_tried_again_that_was_replaced_while_it_waited_for_that() -> Story:
    story = Story().takes(0, "a", unique_key="k", on_duplicate="replace", retries=1)
    story.runs(1, 2, "a", outcome="failed").sees(4, "a", "delayed", asked_at=3)
    return story.takes(5, "b", unique_key="k", on_duplicate="replace").runs(9, 10, "a", "2")


@breaks(h.ReplacedStarted)
def a_job_is_tried_again_that_was_cancelled_by_its_replacement() -> Story:
    story = Story().takes(0, "a", unique_key="k", on_duplicate="cancel", retries=1).starts(1, "a")
    story.takes(5, "b", unique_key="k", on_duplicate="cancel").ends(6, "a", outcome="failed")
    return story.runs(9, 10, "a", "2")


# --- what many share ----------------------------------------------------------------------------


def _limited(gate: str, most: int | None) -> Story:
    return Story().tell(0, h.Limit, gate=gate, most=most)


@breaks(h.OverLimit)
def two_run_in_a_queue_where_one_may() -> Story:
    story = _limited("queue:q", 1).takes(1, "a", queue="q").takes(1, "b", queue="q")
    return story.starts(2, "a").starts(3, "b").ends(4, "a").ends(5, "b")


@breaks(h.OverLimit)
def three_of_a_task_run_where_two_may() -> Story:
    story = _limited("task:t", 2)
    for n, job in enumerate("abc"):
        story.takes(n, job, task="t")
    story.runs(5, 9, "a").runs(6, 9, "b", process="other").runs(7, 9, "c", process="third")
    return story


@breaks(h.OverLimit)
def two_with_one_key_run_where_one_may() -> Story:
    story = _limited("key:t:ann", 1)
    story.takes(1, "a", task="t", limit_key="ann").takes(1, "b", task="t", limit_key="ann")
    return story.runs(2, 4, "a").runs(3, 5, "b")


@breaks(h.OverLimit)
def one_begins_in_the_moment_in_which_another_leaves_and_before_that() -> Story:
    story = _limited("queue:q", 1).takes(1, "a", queue="q").takes(1, "b", queue="q")
    return story.starts(2, "a").starts(3, "b").ends(3, "a").ends(4, "b")


@breaks(h.OverLimit)
def a_stopped_process_is_not_counted_before_its_lease_is_lost() -> Story:
    story = _limited("queue:q", 1).takes(1, "a", queue="q").takes(1, "b", queue="q")
    story.starts(2, "a", process="w1").tell(3, h.Paused, who="w1", role="worker")
    return story.runs(9, 10, "b", process="w2").loses(11, "a")


@breaks(h.OverLimit)
def a_killed_worker_is_not_counted_before_its_lease_is_lost() -> Story:
    story = _limited("queue:q", 1).takes(1, "a", queue="q").takes(1, "b", queue="q")
    story.starts(2, "a", process="w1").kills(3, "w1")
    return story.runs(9, 10, "b", process="w2").loses(11, "a")


@breaks(h.OverLimit)
def a_paused_queue_is_taken_from() -> Story:
    story = Story().takes(0, "a", queue="q").tell(1, h.Limit, gate="queue:q", most=0)
    return story.runs(2.1, 3, "a")


@breaks(h.OverRate)
def more_begin_at_once_than_there_are_tokens() -> Story:
    story = Story().tell(0, h.Rate, gate="task:t", count=3, per_s=60)
    for n in range(4):
        story.takes(1, f"{n}", task="t").runs(2, 3, f"{n}")
    return story


@breaks(h.OverRate)
def more_begin_over_a_longer_time_than_tokens_come_back() -> Story:
    story = Story().tell(0, h.Rate, gate="rate-key:t:ann", count=1, per_s=10)
    for n in range(9):
        story.takes(0.5, f"{n}", task="t", rate_key="ann")
    for n in range(9):
        at = 10 + n * 9.98 - (1.5 if n == 8 else 0)
        story.runs(at, at + 1, f"{n}")
    return story


@breaks(h.OutOfOrder)
def one_slot_takes_the_newer_job_first() -> Story:
    story = Story().tell(0, h.OneSlot, queue="default").takes(1, "a").takes(2, "b")
    return story.runs(3, 4, "b").runs(5, 6, "a")


@breaks(h.OutOfOrder)
def one_slot_takes_the_newest_of_many_before_one_in_the_middle() -> Story:
    story = Story().tell(0, h.OneSlot, queue="default")
    for n in range(6):
        story.takes(n, f"{n}", priority="high")
    for at, n in enumerate((0, 1, 3, 4, 5, 2)):
        story.runs(20 + at, 20.5 + at, f"{n}")
    story.events = [e for e in story.events if getattr(e, "job", "") not in ("3", "4")]
    return story


@breaks(h.PriorityInverted)
def one_slot_takes_what_is_less_urgent_first() -> Story:
    story = Story().tell(0, h.OneSlot, queue="default", is_by_priority=True)
    story.takes(1, "lo", priority="low").takes(2, "hi", priority="critical")
    return story.runs(10, 11, "lo").runs(12, 13, "hi")


@breaks(h.Late)
def a_job_waits_for_an_hour_beside_a_slot_that_is_free() -> Story:
    story = Story().joins(0, "worker").tell(0, h.OneSlot, queue="default").takes(1, "a")
    return story.runs(3600, 3601, "a")


@breaks(h.Late)
def a_delayed_job_begins_long_after_its_time() -> Story:
    story = Story().joins(0, "worker").tell(0, h.OneSlot, queue="default").takes(1, "a", delay_s=5)
    return story.takes(2, "b").runs(3, 7, "b").runs(67, 68, "a")


# --- around jobs --------------------------------------------------------------------------------


@breaks(h.OutlivedScope)
def a_body_runs_when_its_scope_is_closed() -> Story:
    story = Story().tell(0, h.ScopeOpened, scope="s").takes(1, "a", scope="s").starts(2, "a")
    return story.tell(3, h.ScopeClosed, scope="s").ends(4, "a")


@breaks(h.OutlivedScope)
def a_job_begins_when_the_scope_above_its_own_is_closed() -> Story:
    story = Story().tell(0, h.ScopeOpened, scope="top")
    story.tell(0, h.ScopeOpened, scope="middle", parent="top")
    story.tell(0, h.ScopeOpened, scope="low", parent="middle").takes(1, "a", scope="low")
    return story.tell(2, h.ScopeClosed, scope="top").runs(3, 4, "a")


@breaks(h.OutlivedScope)
def a_job_is_accepted_into_a_closed_scope() -> Story:
    story = Story().tell(0, h.ScopeOpened, scope="s").tell(1, h.ScopeClosed, scope="s")
    return story.takes(2, "a", scope="s")


@breaks(h.FiredTwice)
def a_moment_has_two_jobs() -> Story:
    story = Story().tell(0, h.Scheduled, schedule="s", moments=(10.0,))
    story.tell(11, h.Fired, schedule="s", moment=10.0, job="a")
    return story.tell(12, h.Fired, schedule="s", moment=10.0, job="b")


@breaks(h.FiredUnasked)
def a_schedule_fires_for_a_moment_that_it_does_not_name() -> Story:
    story = Story().tell(0, h.Scheduled, schedule="s", moments=(10.0, 20.0))
    return story.tell(16, h.Fired, schedule="s", moment=15.0, job="a")


@breaks(h.FiredUnasked)
def a_schedule_fires_before_its_moment() -> Story:
    story = Story().tell(0, h.Scheduled, schedule="s", moments=(10.0,))
    return story.tell(9, h.Fired, schedule="s", moment=10.0, job="a")


@breaks(h.NotFired)
def a_moment_is_left_out() -> Story:
    story = Story().tell(0, h.Scheduled, schedule="s", moments=(10.0, 20.0, 30.0))
    for moment in (10.0, 30.0):
        story.tell(moment, h.Fired, schedule="s", moment=moment, job=f"{moment}")
        story.runs(moment, moment + 1, f"{moment}")
        story.sees(moment + 2, f"{moment}", "succeeded")
    return story.is_over(60)


@breaks(h.NotFired)
def the_last_moment_that_was_missed_is_not_made_up_for() -> Story:
    story = Story().tell(0, h.Scheduled, schedule="s", moments=(10.0, 20.0, 30.0))
    story.kills(5, "plane", "plane").tell(25, h.Back, who="plane", role="plane")
    story.tell(30, h.Fired, schedule="s", moment=30.0, job="c").runs(30, 31, "c")
    return story.sees(32, "c", "succeeded").is_over(60)


@breaks(h.NotFired)
def a_moment_that_was_missed_is_left_out_where_all_are_made_up_for() -> Story:
    moments = (10.0, 20.0, 30.0)
    story = Story().tell(0, h.Scheduled, schedule="s", moments=moments, missed="all")
    story.kills(5, "plane", "plane").tell(25, h.Back, who="plane", role="plane")
    for at, moment in ((26, 20.0), (30, 30.0)):
        story.tell(at, h.Fired, schedule="s", moment=moment, job=f"{moment}")
        story.runs(at, at + 1, f"{moment}").sees(at + 2, f"{moment}", "succeeded")
    return story.is_over(60)
