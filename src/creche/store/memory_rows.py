"""What a memory store answers of one job, put together from what it knows."""

from __future__ import annotations

from creche.store.base import Change, JobRecord, JobRow, LaneRow, NewJob, attempt_number
from creche.store.filters import error_of
from creche.store.memory_dead import DeadJobs
from creche.store.memory_jobs import Jobs


def job_row(jobs: Jobs, seq: int) -> JobRow:
    """Return an unfinished job as the engine takes it back."""
    job, standing = jobs.rows[seq], jobs.unfinished[seq]
    if isinstance(standing, NewJob):
        nobody = (0, 0, 0, None, None, 0)
        standing = Change(
            *(seq, job.state, job.lane, job.stored, *nobody), job.due_at, job.expires_at
        )
    return JobRow(
        seq=seq,
        id=job.id,
        task=job.task,
        lane=standing.lane,
        state=standing.state,
        attempt=standing.attempt,
        losses=standing.losses,
        epoch=standing.epoch,
        holder=standing.holder,
        payload=job.payload,
        options=job.options,
        submitted_at=job.submitted_at,
        leased_at=standing.leased_at,
        failures=standing.failures,
        due_at=standing.due_at,
        expires_at=standing.expires_at,
    )


def record(jobs: Jobs, dead: DeadJobs, lane: LaneRow, seq: int) -> JobRecord:
    """Return a job of *lane* as people look at it, without payload and outcome."""
    job = jobs.rows[seq]
    if seq in jobs.unfinished:
        row = job_row(jobs, seq)
        losses, holder, failures = row.losses, row.holder, row.failures
        attempt = attempt_number(row.state, failures, losses)
        due_at, expires_at = row.due_at, row.expires_at
        started_at, ended_at, outcome = row.leased_at, None, None
    else:
        standing, end, _ = jobs.ended.get(seq) or jobs.forgotten[seq]
        attempt, losses, holder, failures = end.attempt, end.losses, end.holder, end.failures
        due_at, expires_at = standing.due_at, standing.expires_at
        started_at, ended_at, outcome = end.started_at, end.ended_at, end.outcome
    return JobRecord(
        seq=seq,
        id=job.id,
        task=job.task,
        queue=lane.queue,
        priority=lane.priority,
        park=lane.park,
        state=jobs.state(seq),
        attempt=attempt,
        losses=losses,
        holder=holder,
        submitted_at=job.submitted_at,
        started_at=started_at,
        ended_at=ended_at,
        payload_bytes=len(job.payload),
        outcome_bytes=None if outcome is None else len(outcome),
        payload=None,
        outcome=None,
        failures=failures,
        due_at=due_at,
        expires_at=expires_at,
        options=job.options,
        error=error_of(jobs.state(seq), outcome),
        fate=dead.fate(seq),
        retried_as=dead.retried_as(seq),
    )
