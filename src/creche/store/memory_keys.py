"""Unique keys in a memory store: which job has which, and which jobs others have replaced."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from creche.store.base import End, KeyHolder, KeyRow, Ousted, OustRow
from creche.store.memory_jobs import Jobs


class _Ousted(NamedTuple):
    """How a job stood when another one took its place."""

    attempt: int
    is_running_too: bool


class UniqueKeys:
    """The keys of *jobs*."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._keys: dict[bytes, KeyRow] = {}
        self._keys_of: dict[int, list[bytes]] = {}
        """Names of the keys that a job was given; others may have them since."""
        self._ousted: dict[int, _Ousted] = {}
        """Unfinished jobs, by seq."""

    def take(self, keys: Iterable[KeyRow]) -> None:
        """Give keys to those jobs that are there by now."""
        for row in keys:
            if row.seq not in self._jobs.rows:
                continue
            self._keys[row.name] = row
            self._keys_of.setdefault(row.seq, []).append(row.name)

    def forget(self, seq: int) -> None:
        """Drop the keys of a job that is known no more."""
        for name in self._keys_of.pop(seq, ()):
            row = self._keys.get(name)
            if row is not None and row.seq == seq:
                del self._keys[name]

    def oust(self, rows: Iterable[OustRow]) -> None:
        """Note which unfinished jobs are replaced, as they stand now."""
        for job_id, _, is_running_too in rows:
            seq = self._jobs.ids.get(job_id, 0)
            standing = self._jobs.unfinished.get(seq)
            if standing is not None and (is_running_too or standing.state.is_waiting):
                self._ousted[seq] = _Ousted(self._jobs.attempt(seq), is_running_too)

    def end(self, ends: Iterable[End]) -> None:
        """Jobs have ended: nothing more is to become of them."""
        if self._ousted:
            for end in ends:
                self._ousted.pop(end.seq, None)

    def ousted(self) -> Sequence[Ousted]:
        """Return the unfinished jobs that others replace, without those that were let go on."""
        return [
            Ousted(self._jobs.rows[seq].id, is_running_too)
            for seq, (attempt, is_running_too) in sorted(self._ousted.items())
            if is_running_too or self._jobs.attempt(seq) == attempt
        ]

    def holders(self, names: Collection[bytes]) -> dict[bytes, KeyHolder]:
        """Return which jobs have these keys, by name; a key that no job has is left out."""
        found: dict[bytes, KeyHolder] = {}
        for row in filter(None, map(self._keys.get, names)):
            job = self._jobs.rows[row.seq]
            found[row.name] = KeyHolder(
                row.name, row.since, row.seq, job.id, self._jobs.state(row.seq), job.submitted_at
            )
        return found
