"""Fixtures of the fault tests."""

from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest

import storage.intents
from storage.archive import Archive
from tests.proxy import PostgresProxy
from tests.support import Opened

_NO_GRACES: Final = {"tomb_grace_s": 0, "sweep_quarantine_s": 0}


@pytest.fixture(autouse=True)
def _no_key_is_announced_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intents are counted here; those of a stock of keys have tests of their own."""
    monkeypatch.setattr(storage.intents, "_AHEAD_MAX", 0)


@pytest.fixture
async def archive(opened: Opened) -> AsyncIterator[Archive]:
    """An open archive on a database and a directory of its own, without graces."""
    async with opened(**_NO_GRACES) as archive:
        yield archive


@pytest.fixture
def proxy(database_url: str) -> Iterator[PostgresProxy]:
    """What stands between an archive and its database, and cuts where it is told to."""
    with PostgresProxy(database_url) as between:
        yield between


@pytest.fixture
async def behind(opened: Opened, proxy: PostgresProxy) -> AsyncIterator[Archive]:
    """An archive that reaches its database through the proxy."""
    async with opened(database_url=proxy.url, **_NO_GRACES) as archive:
        yield archive
