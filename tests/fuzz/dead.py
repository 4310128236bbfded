"""The dead in a run of the fuzz: they are submitted again, or discarded, and then what is on disk
and what was answered must agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.fuzz.truth import Known

from creche.model.ids import id_following, id_from_text
from creche.model.job import Fate, JobState
from creche.store.base import Batch, NewJob, Verdict
from creche.wire import messages as m
from creche.wire.payload import decode_value, encode_call

if TYPE_CHECKING:
    from tests.fuzz.peers import Client
    from tests.fuzz.world import World


@dataclass
class Fated:
    """What has become of a dead job."""

    fate: Fate
    retried_as: bytes | None = None


class Graveyard:
    """All that ended without a result."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._truth = world.truth
        self._asked: dict[bytes, tuple[bytes, bytes]] = {}
        """The ids that retried jobs may have, each with its old job and its arguments."""
        self._fates: dict[bytes, Fated] = {}

    # --- what is done ---------------------------------------------------------------------------

    def _some(self, most: int) -> list[bytes]:
        """Return dead jobs for the most part, and now and then others."""
        rng, jobs = self._world.rng, self._truth.jobs
        dead = list(self._fates)[-20:] if rng.random() < 0.9 else list(jobs)[-20:]
        return rng.sample(dead, min(len(dead), most))

    def retry_some(self, client: Client) -> None:
        """Have a client submit dead jobs again."""
        rng = self._world.rng
        ids = self._some(rng.choice([1, 1, 4, 10]))
        if not ids:
            return
        params: m.Facts = {"ids": ids}
        if len(ids) == 1 and rng.random() < 0.4:
            params["payload"] = encode_call([self._world.next_number(), "again", "b"], {})
        elif rng.random() < 0.3:
            params["rate"] = rng.choice([0.5, 10.0])
        for job_id in ids:
            payload = params.get("payload", self._truth.jobs[job_id].submit.payload)
            self._asked[id_following(job_id, payload)] = (job_id, payload)
        client.ask("retry", params, self._retried)

    def discard_some(self, client: Client) -> None:
        """Have a client discard dead jobs."""
        ids = self._some(self._world.rng.choice([1, 3]))
        if ids:
            client.ask("discard", {"ids": ids}, self._discarded)

    # --- what is answered -----------------------------------------------------------------------

    def _retried(self, params: m.Facts, answer: Any) -> None:
        for job_id, said in zip(params["ids"], answer["jobs"], strict=True):
            self._truth.note(f"retry of {self._truth.name(job_id)}: {said}")
            self._truth.count(f"retry: {said.get('why', 'done')}")
            if "retried_as" not in said:
                continue
            new_id, fated = id_from_text(said["retried_as"]), self._fates.get(job_id)
            self._truth.check(
                new_id in self._truth.stored and fated is not None and fated.retried_as == new_id,
                "what is answered of a retry is on disk",
                job_id,
            )

    def _discarded(self, params: m.Facts, answer: Any) -> None:
        for job_id, said in zip(params["ids"], answer["jobs"], strict=True):
            self._truth.note(f"discard of {self._truth.name(job_id)}: {said}")
            self._truth.count(f"discard: {said}")
            fated = self._fates.get(job_id)
            self._truth.check(
                said != "discarded" or (fated is not None and fated.fate is not Fate.DEAD),
                "what is answered of a discarding is on disk",
                job_id,
            )

    # --- what is committed ----------------------------------------------------------------------

    def recognise(self, job: NewJob, batch: Batch) -> Known | None:
        """Return what is known of a new job if it is an old one once more."""
        said = decode_value(job.options) if job.options else {}
        old_id = said.get("retry_of")
        if old_id is None:
            return None
        truth = self._truth
        asked = self._asked.get(job.id)
        truth.check(
            asked == (old_id, job.payload),
            "the id of a retried job follows from the old one and its arguments",
            old_id,
        )
        old = truth.jobs[old_id]
        truth.check(
            old.end is not None and old.end.state is not JobState.SUCCEEDED,
            "what is retried has ended without a result",
            old_id,
        )
        seq = next(seq for seq, job_id in truth.by_seq.items() if job_id == old_id)
        truth.check(
            any((v.seq, v.retried_as) == (seq, job.id) for v in batch.verdicts),
            "that a job is retried is committed with its new one",
            old_id,
        )
        number = self._world.next_number()
        truth.note(f"#{number} is {truth.name(old_id)} once more")
        truth.count("retried")
        message = old.submit._replace(id=job.id, payload=job.payload, flags=0)
        known = self._world.known(message, number, is_by_plane=True)
        known.may_expire = old.may_expire
        return known

    def committed(self, batch: Batch) -> None:
        """A batch is on disk, and its jobs are known."""
        for end in batch.ends:
            job_id = self._truth.by_seq.get(end.seq)
            if end.state.is_dead and job_id is not None:
                self._fates[job_id] = Fated(Fate.DEAD)
        for verdict in batch.verdicts:
            self._judged(self._truth.by_seq[verdict.seq], verdict)

    def _judged(self, job_id: bytes, verdict: Verdict) -> None:
        truth, before = self._truth, self._fates.get(job_id)
        truth.note(f"disk: {truth.name(job_id)} is {verdict.fate.word}")
        if verdict.fate is Fate.RETRIED:
            truth.check(
                verdict.retried_as in truth.stored,
                "what is marked as retried is there once more",
                job_id,
            )
            truth.check(
                before is None or before.retried_as in (None, verdict.retried_as),
                "a job is retried once",
                job_id,
            )
        else:
            truth.check(
                before is not None and before.fate is not Fate.RETRIED,
                "what is discarded was dead",
                job_id,
            )
        self._fates[job_id] = Fated(verdict.fate, verdict.retried_as)

    async def check_end(self) -> None:
        """What the store answers of each is what was committed."""
        core, truth = self._world.core, self._truth
        assert core is not None
        for job_id, fated in self._fates.items():
            record = await core.store.job(job_id)
            if record is None or record.state is JobState.FORGOTTEN:
                continue
            truth.check(
                (record.fate, record.retried_as) == (fated.fate, fated.retried_as),
                f"the store has of a dead job what was committed: {fated}, not {record.fate}",
                job_id,
            )
