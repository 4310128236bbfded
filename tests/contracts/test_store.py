"""Every store keeps the one contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from creche.store.memory import MemoryStore
from creche.store.sqlite import SqliteStore
from creche.testing.store_contract import StoreContract
from creche.testing.store_rows import Connect


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def connect(self) -> Connect:
        store = MemoryStore()
        return lambda: store


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Connect:
        return lambda: SqliteStore(tmp_path / "creche.db")
