"""Unique keys in a memory store: which job has which."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from creche.store.base import KeyHolder, KeyRow, Ousted
from creche.store.memory_jobs import Jobs


class UniqueKeys:
    """The keys of *jobs*."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._keys: dict[bytes, KeyRow] = {}
        self._keys_of: dict[int, list[bytes]] = {}
        """Names of the keys that a job was given; others may have them since."""

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

    def ousted(self) -> Sequence[Ousted]:
        """Return the unfinished jobs that others replace. One that had begun was let go on."""
        return [
            Ousted(self._jobs.rows[row.ousts].id, row.oust_running)
            for row in self._keys.values()
            if row.ousts is not None and self._may_be_ousted(row.ousts, row.oust_running)
        ]

    def _may_be_ousted(self, seq: int, is_running_too: bool) -> bool:
        standing = self._jobs.unfinished.get(seq)
        return standing is not None and (is_running_too or not getattr(standing, "attempt", 0))

    def holders(self, names: Collection[bytes]) -> dict[bytes, KeyHolder]:
        """Return which jobs have these keys, by name; a key that no job has is left out."""
        found: dict[bytes, KeyHolder] = {}
        for row in filter(None, map(self._keys.get, names)):
            job = self._jobs.rows[row.seq]
            found[row.name] = KeyHolder(
                row.name, row.since, row.seq, job.id, self._jobs.state(row.seq), job.submitted_at
            )
        return found
