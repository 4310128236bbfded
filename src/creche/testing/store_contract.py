"""`creche.store.base` as tests: what the engine counts on in any store.

A store of your own passes them by a subclass that says how it is made::

    class TestMyStore(StoreContract):
        @pytest.fixture
        def connect(self, tmp_path):
            return lambda: MyStore(tmp_path / "jobs")

Each call of `connect` returns a store that is not open yet, on the same ledger; the tests open one
at a time. They need pytest and pytest-trio, and are marked so that they run under Trio whatever its
mode. No call may take longer than `CALL_S` (in `creche.testing.store_rows`). Each part of the
contract is a module of its own.
"""

from __future__ import annotations

from creche.testing.store_commits import Commits
from creche.testing.store_dead import Dead
from creche.testing.store_history import History
from creche.testing.store_ids import Ids
from creche.testing.store_keys import Keys
from creche.testing.store_opening import Opening
from creche.testing.store_pruning import Pruning
from creche.testing.store_reading import Reading


class StoreContract(Opening, Commits, Ids, Keys, Reading, Pruning, Dead, History):
    """All of the tests. A subclass supplies `connect`; what it adds beside is its own."""
