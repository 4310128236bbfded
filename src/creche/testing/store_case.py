"""What the parts of a store's contract stand on: how a store is made, and one that is open."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from creche.store.base import Store
from creche.testing.store_rows import NOW, Connect, bounded


class StoreCase:
    """Tests of a store. A subclass supplies `connect`."""

    pytestmark = pytest.mark.trio

    @pytest.fixture
    def connect(self) -> Connect:
        """Return the way to make a store, not open yet, on the one ledger of this test."""
        raise NotImplementedError("a store says how it is made by its own `connect` fixture")

    @pytest.fixture
    async def store(self, connect: Connect) -> AsyncIterator[Store]:
        """A store on an empty ledger, open in its first epoch."""
        store = bounded(connect())
        await store.open(NOW)
        yield store
        await store.aclose()
