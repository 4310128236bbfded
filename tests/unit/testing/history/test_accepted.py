"""What looks wrong at first and is not: the checker accepts it. Each test is a pair with a planted
history that is refused."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.testing.history.story import Story

from creche.testing import history as h


def accepted(story: Story, **bounds: float) -> bool:
    found = h.check(story.events, h.Bounds(**bounds))
    assert not found, "\n".join(map(str, found))
    return True


def apart(story: Story) -> Story:
    """Have each event recorded by its process, so that within a moment nobody knows the order."""
    story.events = [
        replace(event, recorder=f"{event.process}-{type(event).__name__}")
        for event in reversed(story.events)
    ]
    return story


def test_a_job_that_was_accepted_ran_and_was_seen() -> None:
    story = Story().takes(0, "a").runs(1, 2, "a", value="r1").sees(3, "a", "running", asked_at=1)
    assert accepted(story.sees(4, "a", "succeeded", "r1").is_over(60))


def test_nothing_at_all() -> None:
    assert accepted(Story())


def test_a_job_without_an_end_while_all_may_go_on() -> None:
    assert accepted(Story().takes(0, "a").starts(1, "a"))


def test_a_result_that_is_forgotten_later() -> None:
    story = Story().takes(0, "a").runs(1, 2, "a", value=1).sees(3, "a", "succeeded", 1)
    assert accepted(story.sees(9, "a", "forgotten").is_over(60))


def test_a_submission_without_an_answer_that_runs_or_does_not() -> None:
    story = Story().submits(0, "a").is_uncertain(5, "a").runs(2, 3, "a").submits(0, "b")
    assert accepted(story.is_over(60))


def test_a_refused_submission_that_is_made_again_and_runs() -> None:
    story = Story().submits(0, "a").refuses(1, "a")
    story.tell(2, h.Submit, call="again", job="a").tell(3, h.Accepted, call="again", job="a")
    assert accepted(story.runs(4, 5, "a").sees(6, "a", "succeeded"))


def test_an_answer_that_was_asked_for_before_the_end_was_seen() -> None:
    story = Story().takes(0, "a").runs(1, 2, "a").sees(3, "a", "succeeded")
    assert accepted(story.sees(4, "a", "running", asked_at=2.5))


def test_a_job_that_is_unknown_before_it_is_accepted_and_after_it_is_kept() -> None:
    story = Story().tell(0, h.Saw, job="a", state="unknown", asked_at=0)
    story.takes(1, "a").sees(2, "a", "unknown", asked_at=1)
    assert accepted(story.sees(90, "a", "unknown", asked_at=80), kept_s=60)


def test_an_attempt_that_begins_when_its_lease_is_lost_already() -> None:
    story = Story().takes(0, "a").loses(2, "a").runs(3, 4, "a", "2", value="r2")
    story.sees(5, "a", "succeeded", "r2").runs(6, 7, "a", "1", value="r1")
    assert accepted(story.is_over(60))


def test_an_attempt_that_runs_on_when_its_lease_is_lost() -> None:
    story = Story().takes(0, "a", timeout_s=5, deadline_at=9).starts(1, "a").loses(2, "a")
    story.runs(3, 4, "a", "2", value="r2").sees(5, "a", "succeeded", "r2")
    assert accepted(story.ends(60, "a", value="r1").is_over(60))


def test_two_attempts_come_to_one_result_and_one_of_them_was_lost() -> None:
    story = Story().takes(0, "a").runs(1, 4, "a", value="r").loses(5, "a")
    assert accepted(story.runs(6, 7, "a", "2", value="r").sees(8, "a", "succeeded", "r"))


def test_of_one_moment_in_two_places_nobody_knows_the_order() -> None:
    story = Story().takes(0, "a", retries=None).runs(1, 2, "a", outcome="failed")
    story.sees(3, "a", "failed").runs(3, 3, "a", "2", outcome="failed")
    story.tell(4, h.Limit, gate="queue:q", most=1).takes(5, "b", queue="q").takes(5, "c", queue="q")
    story.starts(6, "b").starts(7, "c").ends(7, "b").ends(8, "c")
    assert len(h.check(story.events)) == 2
    assert accepted(apart(story))


def test_an_attempt_begins_that_was_on_its_way_when_its_job_was_cancelled() -> None:
    story = Story().takes(0, "a").cancels(1, "a", "cancelling").runs(2, 3, "a", outcome="left")
    assert accepted(story.sees(4, "a", "cancelled"))


def test_a_cancelled_body_that_ends_all_the_same() -> None:
    story = Story().takes(0, "a").starts(1, "a").cancels(2, "a", "cancelling").ends(3, "a", value=1)
    assert accepted(story.sees(4, "a", "succeeded", 1).cancels(5, "a", "succeeded"))


def test_retries_lost_leases_and_attempts_that_were_too_early() -> None:
    story = Story().takes(0, "a", retries=1, backoff_s=2)
    story.runs(1, 2, "a", "1", outcome="snoozed", delay_s=1)
    story.starts(3, "a", "2").loses(4, "a", "2").runs(5, 6, "a", "3", outcome="failed")
    assert accepted(story.runs(8, 9, "a", "4").sees(10, "a", "succeeded").is_over(60))


def test_an_attempt_that_did_not_count_and_the_next_one_have_one_name() -> None:
    story = Story().takes(0, "a")
    for n in range(3):
        story.runs(3 * n + 1, 3 * n + 2, "a", "1", outcome="snoozed", delay_s=1)
    story.starts(10, "a", "1").loses(11, "a", "1").runs(12, 13, "a", "2", value=2)
    assert accepted(story.ends(14, "a", "1", value=1).sees(15, "a", "succeeded", 2).is_over(60))


def test_a_job_without_an_end_of_its_retries() -> None:
    story = Story().takes(0, "a", retries=None)
    for n in range(9):
        story.runs(n + 1, n + 1.5, "a", f"{n}", outcome="failed")
    assert accepted(story)


def test_what_is_to_run_at_most_once_and_was_too_early() -> None:
    story = Story().takes(0, "a", is_at_most_once=True).runs(1, 2, "a", outcome="snoozed")
    assert accepted(story.starts(3, "a", "2").loses(4, "a", "2").sees(5, "a", "lost").is_over(60))


def test_a_job_runs_twice_whose_lease_was_not_on_disk_when_the_plane_was_killed() -> None:
    story = Story().tell(0, h.Limit, gate="queue:default", most=1).takes(0.5, "a").starts(1, "a")
    story.kills(1.2, "plane", "plane").tell(2, h.Back, who="plane", role="plane")
    story.runs(9, 10, "a", process="other", value=1).ends(11, "a", value=2)
    assert accepted(story.sees(12, "a", "succeeded", 1).is_over(60))


def test_a_failure_that_does_not_count_as_its_lease_was_lost() -> None:
    story = Story().takes(0, "a", retries=1, backoff_s=60)
    story.runs(1, 4, "a", outcome="failed").loses(5, "a").runs(5, 6, "a", "2")
    assert accepted(story.sees(7, "a", "succeeded"))


def test_a_wait_that_the_job_itself_asks_for_and_one_that_chance_makes_shorter() -> None:
    story = Story().takes(0, "a", retries=9, backoff_s=8, backoff_max_s=10, jitter=0.25)
    story.runs(1, 2, "a", "1", outcome="failed", delay_s=1)
    story.runs(3, 4, "a", "2", outcome="failed").runs(11.5, 12, "a", "3")
    assert accepted(story)


def test_a_delayed_job_begins_in_the_moment_that_was_said() -> None:
    assert accepted(Story().takes(10, "a", delay_s=5).runs(14.9995, 16, "a"))


def test_an_expired_job_that_was_offered_in_time_and_retries_later_than_that() -> None:
    story = Story().takes(0, "a", expires_s=5, retries=1).runs(5.9, 6, "a", outcome="failed")
    assert accepted(story.runs(90, 91, "a", "2").sees(95, "a", "succeeded").takes(95, "b"))


def test_a_thread_runs_longer_than_it_may() -> None:
    story = Story().takes(0, "a", timeout_s=5, deadline_at=9)
    assert accepted(story.runs(1, 60, "a", is_reachable=False))


def test_a_stopped_process_keeps_no_time() -> None:
    story = Story().takes(0, "a", timeout_s=5, deadline_at=9).takes(0, "b", expires_s=5)
    story.starts(1, "a").tell(2, h.Paused, who="worker", role="worker")
    story.tell(60, h.Woken, who="worker", role="worker").starts(60, "b").ends(60, "a")
    assert accepted(story.ends(61, "b"))


def test_a_killed_body_whose_end_nobody_could_record() -> None:
    story = Story().tell(0, h.Limit, gate="task:t", most=1)
    story.takes(0, "a", task="t", timeout_s=1, retries=1).takes(0, "b", task="t")
    story.starts(1, "a").runs(5, 6, "a", "2").sees(7, "a", "succeeded")
    assert accepted(story.runs(3, 4, "b"))


def test_a_submission_meets_the_job_with_its_key() -> None:
    story = Story().takes(0, "a", idempotency_key="k").runs(1, 2, "a", value=1)
    story.submits(3, "b", idempotency_key="k").accepts(4, "a", call="b")
    assert accepted(story.sees(5, "a", "succeeded", 1).is_over(60))


def test_a_submission_meets_one_that_has_met_the_job_with_its_key() -> None:
    story = Story().takes(0, "a", unique_key="u")
    story.submits(1, "b", unique_key="u", idempotency_key="k").accepts(2, "a", call="b")
    assert accepted(story.submits(3, "c", idempotency_key="k").accepts(4, "a", call="c"))


def test_an_idempotency_key_is_another_job_when_it_is_not_kept_any_more_or_of_another_task() -> (
    None
):
    story = Story().takes(0, "a", idempotency_key="k").takes(90, "b", idempotency_key="k")
    assert accepted(story.takes(91, "c", task="t", idempotency_key="k"), kept_s=60)


def test_a_submission_of_which_nobody_knows_was_not_taken_and_its_key_is_free() -> None:
    story = Story().submits(0, "a", idempotency_key="k").is_uncertain(5, "a")
    assert accepted(story.takes(6, "b", idempotency_key="k").runs(7, 8, "b"))


def test_one_unique_job_after_another() -> None:
    story = Story()
    for n, job in enumerate("abc"):
        story.takes(10 * n, job, unique_key="k").runs(10 * n + 1, 10 * n + 2, job)
    assert accepted(story)


def test_a_unique_job_beside_one_that_was_cancelled_and_is_leaving() -> None:
    story = Story().takes(0, "a", unique_key="k").starts(1, "a").cancels(2, "a", "cancelling")
    assert accepted(story.takes(3, "b", unique_key="k").ends(9, "a", outcome="left"))


def test_a_job_is_replaced_while_it_waits_or_runs() -> None:
    story = Story()
    for n, job in enumerate("abcd"):
        story.takes(n, job, unique_key="k", on_duplicate="replace", retries=1)
    story.sees(5, "a", "cancelled").sees(5, "b", "cancelled").sees(5, "c", "cancelled")
    story.starts(6, "d").takes(7, "e", unique_key="k", on_duplicate="replace")
    story.ends(8, "d", outcome="failed").runs(10, 11, "d", "2").runs(12, 13, "e")
    story.takes(14, "f", unique_key="k", on_duplicate="cancel").starts(15, "f")
    story.takes(16, "g", unique_key="k", on_duplicate="cancel").ends(17, "f", outcome="left")
    assert accepted(story.sees(18, "f", "cancelled"))


def test_a_job_is_replaced_after_its_body_has_left_and_before_the_plane_has_heard_of_it() -> None:
    story = Story().takes(0, "a", unique_key="k", on_duplicate="replace", retries=1)
    story.runs(1, 2, "a", outcome="failed").sees(4, "a", "running", asked_at=3)
    story.takes(5, "b", unique_key="k", on_duplicate="replace")
    assert accepted(story.runs(9, 10, "a", "2"))


def test_a_firing_takes_the_key_of_a_job_that_waits_and_leaves_it_alone() -> None:
    story = Story().takes(0, "a", task="t", unique_key="k")
    terms = h.Terms(task="t", unique_key="k")
    story.tell(1, h.Fired, schedule="s", moment=1.0, job="b", terms=terms).runs(1, 2, "b")
    assert accepted(story.takes(3, "c", task="t", unique_key="k").runs(4, 5, "a").runs(6, 7, "c"))


def test_two_that_replace_each_other_at_once() -> None:
    story = Story().submits(0, "a", unique_key="k", on_duplicate="replace")
    story.submits(0, "b", unique_key="k", on_duplicate="replace").accepts(1, "a").accepts(1, "b")
    assert accepted(story.sees(2, "b", "cancelled").runs(5, 6, "a"))


def test_a_limit_that_is_made_narrower_lets_go_on_what_runs() -> None:
    story = Story().tell(0, h.Limit, gate="queue:q", most=2)
    for job in "abcd":
        story.takes(1, job, queue="q")
    story.starts(2, "a").tell(3, h.Limit, gate="queue:q", most=1, asked_at=2.9)
    story.starts(3.5, "b").ends(9, "a").ends(10, "b").runs(11, 12, "c")
    story.tell(14, h.Limit, gate="queue:q", most=None, asked_at=13)
    assert accepted(story.starts(13.5, "d").ends(15, "d"))


def test_a_limit_counts_no_lease_that_is_lost() -> None:
    story = Story().tell(0, h.Limit, gate="queue:q", most=1)
    story.takes(1, "a", queue="q").takes(1, "b", queue="q").starts(2, "a", process="w1")
    story.tell(3, h.Paused, who="w1", role="worker").loses(5, "a").runs(5, 6, "b", process="w2")
    story.tell(9, h.Woken, who="w1", role="worker").ends(9, "a", process="w1", outcome="left")
    assert accepted(story.runs(10, 11, "a", "2"))


def test_a_bucket_is_full_again_when_the_plane_was_started_again() -> None:
    story = Story().tell(0, h.Rate, gate="task:t", count=2, per_s=600)
    for n in range(4):
        story.takes(1, f"{n}", task="t")
    story.runs(2, 3, "0").runs(2, 3, "1").kills(9, "plane", "plane")
    story.tell(10, h.Back, who="plane", role="plane").runs(20, 21, "2").runs(20, 21, "3")
    assert accepted(story)


def test_a_worker_that_was_stopped_begins_later_what_it_was_offered() -> None:
    story = Story().tell(0, h.Rate, gate="task:t", count=1, per_s=5)
    for n in range(3):
        story.takes(1, f"{n}", task="t")
    story.tell(1, h.Paused, who="worker", role="worker")
    story.tell(12, h.Woken, who="worker", role="worker").runs(12, 13, "0").runs(12, 13, "1")
    assert accepted(story.runs(17, 18, "2"))


def test_a_lane_in_order_and_what_has_no_place_in_it() -> None:
    story = Story().tell(0, h.OneSlot, queue="default").tell(0, h.Limit, gate="task:few", most=1)
    story.takes(1, "delayed", delay_s=30).takes(1, "low", priority="low").takes(
        1, "few", task="few"
    )
    story.submits(1, "x").submits(1, "y").accepts(2, "x").accepts(2, "y").takes(3, "z")
    story.runs(4, 5, "y").runs(6, 7, "x").runs(8, 9, "z").runs(10, 11, "few").runs(12, 13, "low")
    assert accepted(story.runs(31, 32, "delayed"))


def test_a_lane_in_which_a_worker_was_lost() -> None:
    story = Story().tell(0, h.OneSlot, queue="default").takes(1, "a").takes(2, "b")
    assert accepted(story.loses(3, "a", "1").runs(3, 4, "b").runs(5, 6, "a", "2"))


def test_a_scope_whose_jobs_have_left() -> None:
    story = Story().tell(0, h.ScopeOpened, scope="top")
    story.tell(0, h.ScopeOpened, scope="low", parent="top").takes(1, "a", scope="low")
    story.starts(1, "b", process="w2").takes(1, "b", scope="top").loses(2, "b").runs(2, 3, "a")
    story.tell(4, h.ScopeClosed, scope="low").tell(4, h.ScopeClosed, scope="top")
    assert accepted(story.ends(9, "b", outcome="left", process="w2").takes(9, "c"))


def test_a_schedule_fires_each_moment_and_the_last_of_those_that_were_missed() -> None:
    moments = tuple(10.0 * n for n in range(1, 8))
    story = Story().tell(0, h.Scheduled, schedule="s", moments=moments)
    story.kills(15, "plane", "plane").tell(45, h.Back, who="plane", role="plane")
    for n, moment in enumerate((10.0, 40.0, 50.0, 60.0)):
        at = max(moment, 46) if moment > 10 else moment
        story.tell(at, h.Fired, schedule="s", moment=moment, job=f"{n}")
        story.tell(at, h.Fired, schedule="s", moment=moment, job=f"{n}")
        story.runs(at, at + 1, f"{n}").sees(at + 2, f"{n}", "succeeded")
    assert accepted(story.is_over(70.5))


def test_a_result_whose_lease_was_lost_when_the_plane_was_killed_before_that_was_on_disk() -> None:
    story = Story().takes(0, "a").runs(1, 2, "a", value="r1").loses(5, "a")
    story.kills(5.01, "plane", "plane").tell(6, h.Back, who="plane", role="plane")
    assert accepted(story.sees(7, "a", "succeeded", "r1"))


def test_an_attempt_whose_lease_was_not_written_as_the_plane_was_stopped_and_killed() -> None:
    story = Story().takes(0, "a").starts(1, "a", "1").tell(1.5, h.Paused, who="plane", role="plane")
    story.tell(30, h.Woken, who="plane", role="plane").kills(30.5, "plane", "plane")
    story.tell(31, h.Back, who="plane", role="plane").runs(32, 33, "a", "2", process="w2")
    assert accepted(story.sees(34, "a", "succeeded"))


def test_a_moment_that_was_missed_with_one_that_nobody_can_judge_yet() -> None:
    moments = (10.0, 20.0, 30.0)
    story = Story().tell(0, h.Scheduled, schedule="s", moments=moments)
    story.kills(5, "plane", "plane").tell(31, h.Back, who="plane", role="plane")
    story.tell(31.1, h.Fired, schedule="s", moment=30.0, job="a").runs(31.1, 31.2, "a")
    assert accepted(story.sees(31.3, "a", "succeeded").is_over(31.5), grace_s=6)


def test_an_attempt_that_begins_when_the_next_plane_has_come_as_its_offer_was_on_its_way() -> None:
    story = Story().takes(0, "a").kills(1, "plane", "plane")
    story.tell(1, h.Back, who="plane", role="plane").runs(1.05, 1.06, "a", value="r1")
    story.runs(1.2, 1.3, "a", "2", process="w2", value="r2")
    assert accepted(story.sees(2, "a", "succeeded", "r2"), travel_s=0.06)
    late = h.check(story.events, h.Bounds(travel_s=0.04))
    assert {type(violation) for violation in late} == {h.TooManyAttempts}


def test_a_schedule_whose_plane_is_stopped_as_soon_as_its_disk_is_there_again() -> None:
    moments = (10.0, 20.0, 30.0)
    story = Story().tell(0, h.Scheduled, schedule="s", moments=moments)
    story.tell(5, h.Paused, who="disk", role="store").tell(15, h.Woken, who="disk", role="store")
    story.tell(14, h.Paused, who="plane", role="plane").tell(25, h.Woken, who="plane", role="plane")
    for at, moment in ((26, 20.0), (30, 30.0)):
        story.tell(at, h.Fired, schedule="s", moment=moment, job=f"{moment}")
        story.runs(at, at + 1, f"{moment}").sees(at + 2, f"{moment}", "succeeded")
    assert accepted(story.is_over(60))


def test_a_schedule_of_which_nobody_knows_before_its_last_moment_has_passed() -> None:
    story = Story().tell(50, h.Scheduled, schedule="s", moments=(10.0, 20.0))
    assert accepted(story.is_over(60))


def test_a_schedule_that_fires_nothing_beside_its_last_job() -> None:
    story = Story().tell(0, h.Scheduled, schedule="s", moments=(10.0, 20.0), overlap="skip")
    story.tell(10, h.Fired, schedule="s", moment=10.0, job="a").runs(10, 30, "a")
    assert accepted(story.sees(31, "a", "succeeded").is_over(60))


def test_a_job_has_failed_for_another_reason_than_its_retries() -> None:
    story = Story().takes(0, "a", retries=3).starts(1, "a").cancels(2, "a", "cancelling")
    story.ends(3, "a", outcome="failed").sees(4, "a", "failed")
    story.takes(5, "b", retries=3, deadline_at=9).runs(6, 7, "b", outcome="failed")
    story.takes(5, "c", retries=3).runs(6, 7, "c", outcome="failed", is_last=True)
    story.takes(5, "d", retries=3, is_at_most_once=True).runs(6, 7, "d", outcome="failed")
    for job in "bcd":
        story.sees(8, job, "failed")
    assert accepted(story.is_over(60))


def test_a_job_has_failed_whose_attempts_had_no_time_left_or_were_killed() -> None:
    story = Story().takes(0, "a", retries=1, timeout_s=2).runs(1, 3, "a", outcome="left")
    assert accepted(story.starts(4, "a", "2").sees(7, "a", "failed").is_over(60))


def test_a_job_has_failed_as_too_many_workers_were_lost_with_it() -> None:
    story = Story().takes(0, "a", retries=3, max_losses=2).loses(2, "a").starts(3, "a", "2")
    assert accepted(story.loses(4, "a", "2").sees(5, "a", "failed").is_over(60))


def test_a_failure_counts_whose_lost_lease_was_not_on_disk_when_the_plane_was_killed() -> None:
    story = Story().takes(0, "a", max_losses=2).runs(1, 2, "a", outcome="failed").loses(5, "a")
    story.kills(5.01, "plane", "plane").tell(6, h.Back, who="plane", role="plane")
    assert accepted(story.sees(7, "a", "failed").is_over(60))


def test_a_job_expires_at_the_end_of_its_time_or_at_its_deadline_if_that_is_sooner() -> None:
    story = Story().takes(0, "a", expires_s=5).sees(4.9995, "a", "expired")
    story.takes(10, "b", expires_s=60, deadline_at=20).sees(20, "b", "expired")
    story.submits(30, "c", expires_s=5).is_uncertain(31, "c")
    story.tell(32, h.Submit, call="again", job="c", terms=h.Terms(expires_s=5))
    story.tell(33, h.Accepted, call="again", job="c").sees(35.5, "c", "expired")
    assert accepted(story.is_over(60))


def test_a_job_is_lost_whose_attempt_has_ended_and_could_not_say_so_in_time() -> None:
    story = Story().takes(0, "a", is_at_most_once=True).runs(1, 2, "a", value="r").loses(5, "a")
    assert accepted(story.sees(5, "a", "lost").is_over(60))


def test_a_job_is_lost_of_which_nobody_knows_whether_it_has_begun() -> None:
    story = Story().takes(0, "a", is_at_most_once=True).loses(5, "a").sees(6, "a", "lost")
    assert accepted(story.is_over(60))


def test_a_cancel_that_comes_before_the_job_or_when_it_is_not_kept_any_more() -> None:
    story = Story().tell(0, h.Cancel, job="a").submits(0.1, "a").accepts(1, "a")
    story.tell(1, h.CancelAnswered, job="a", state="unknown").runs(2, 3, "a")
    assert accepted(story.sees(4, "a", "succeeded").cancels(90, "a", "unknown"), kept_s=60)


def test_a_job_was_seen_to_wait_by_who_had_asked_before_it_was_cancelled() -> None:
    story = Story().takes(0, "a").cancels(1, "a", "cancelled").sees(2, "a", "queued", asked_at=0.9)
    assert accepted(story.sees(3, "a", "cancelled").sees(90, "a", "forgotten").is_over(99))


def test_a_submission_meets_a_job_that_ends_just_then_or_whose_key_lasts() -> None:
    story = Story().takes(0, "a", unique_key="k", idempotency_key="i").runs(1, 2, "a")
    story.submits(2.9, "b", unique_key="k").sees(3, "a", "succeeded").accepts(3, "a", call="b")
    story.submits(5, "c", unique_key="k", idempotency_key="i").accepts(6, "a", call="c")
    story.submits(7, "d", unique_key="k", may_meet_ended=True).accepts(8, "a", call="d")
    assert accepted(story.is_over(60))


def test_a_cancelled_body_runs_on_that_nobody_can_reach_or_stop() -> None:
    story = Story().joins(0, "w1").joins(0, "w2").joins(0, "w3").joins(0, "w4")
    for n, process in enumerate(("w1", "w2", "w3", "w4", "w5"), 1):
        story.takes(0, f"{n}").starts(1, f"{n}", process=process, is_reachable=n != 4)
    story.tell(1.5, h.Severed, who="w1", role="worker")
    for n in range(1, 6):
        story.cancels(2, f"{n}", "cancelling")
    story.tell(2.2, h.Severed, who="w2", role="worker").joins(2.3, "w2")
    story.tell(2.5, h.Paused, who="w3", role="worker").tell(9, h.Woken, who="w3", role="worker")
    for n in range(1, 6):
        story.ends(20, f"{n}", process=f"w{n}", outcome="left").sees(21, f"{n}", "cancelled")
    assert accepted(story.is_over(60))


def test_a_cancelled_body_leaves_within_the_grace_or_its_plane_is_killed() -> None:
    story = Story().joins(0, "worker").takes(0, "a").starts(1, "a").cancels(2, "a", "cancelling")
    story.ends(3, "a", outcome="left").takes(4, "b").starts(5, "b").cancels(6, "b", "cancelling")
    story.kills(6.5, "plane", "plane").tell(8, h.Back, who="plane", role="plane")
    assert accepted(story.ends(9, "b", outcome="left"))


def test_a_body_leaves_in_time_when_its_lease_was_lost_or_cannot_be_reached() -> None:
    story = Story().takes(0, "a").starts(1, "a").loses(5, "a").ends(15, "a", outcome="left")
    story.takes(20, "b").starts(21, "b", is_reachable=False).loses(25, "b").ends(90, "b")
    story.takes(20, "c").starts(21, "c", process="w2").tell(22, h.Paused, who="w2", role="worker")
    story.loses(25, "c").tell(89, h.Woken, who="w2", role="worker").ends(90, "c", process="w2")
    story.takes(20, "d").starts(21, "d", process="w3").loses(25, "d").kills(26, "w3")
    assert accepted(story, leaves_s=10)


def test_what_is_more_urgent_comes_when_the_other_is_on_its_way_or_a_fault_was_between() -> None:
    story = Story().tell(0, h.OneSlot, queue="default", is_by_priority=True)
    story.takes(1, "lo", priority="low").takes(2, "hi", priority="high").runs(2.19, 3, "lo")
    story.runs(4, 5, "hi").takes(6, "b", priority="low").takes(7, "a", priority="critical")
    story.kills(8, "plane", "plane").tell(9, h.Back, who="plane", role="plane")
    assert accepted(story.runs(11, 12, "b").runs(13, 14, "a"))


def test_what_is_less_urgent_has_its_turn_where_the_rule_is_to_be_fair() -> None:
    story = Story().tell(0, h.OneSlot, queue="default")
    story.takes(1, "lo", priority="low").takes(2, "hi", priority="high").runs(9, 10, "lo")
    assert accepted(story.runs(11, 12, "hi"))


def test_a_job_waits_for_a_slot_that_is_taken_or_a_worker_that_is_away_or_its_time() -> None:
    story = Story().joins(0, "worker").tell(0, h.OneSlot, queue="default")
    story.takes(1, "a").takes(1, "b").takes(2, "c", delay_s=90).runs(2, 40, "a").runs(41, 42, "b")
    story.runs(93, 94, "c").takes(100, "d").tell(101, h.Severed, who="worker", role="worker")
    story.joins(120, "worker").runs(121, 122, "d").takes(130, "e")
    story.tell(131, h.Paused, who="plane", role="plane")
    story.tell(160, h.Woken, who="plane", role="plane").runs(160, 161, "e")
    assert accepted(story, late_s=1.5)


def test_a_delay_begins_when_the_plane_has_the_job() -> None:
    story = Story().joins(0, "worker").tell(0, h.OneSlot, queue="default")
    story.submits(1, "a", delay_s=10).accepts(9, "a")
    assert accepted(story.runs(19, 20, "a"), late_s=1.5)
