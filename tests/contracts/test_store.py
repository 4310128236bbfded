"""Every store keeps the one contract."""

from __future__ import annotations

import pytest

from creche.store.memory import MemoryStore
from creche.testing.store_contract import StoreContract
from creche.testing.store_rows import Connect


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def connect(self) -> Connect:
        store = MemoryStore()
        return lambda: store
