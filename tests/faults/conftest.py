"""Fixtures of the fault tests."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

import storage.intents
from storage.archive import Archive, open_archive
from storage.settings import Settings
from tests.proxy import PostgresProxy


@pytest.fixture(autouse=True)
def _no_key_is_announced_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intents are counted here; those of a stock of keys have tests of their own."""
    monkeypatch.setattr(storage.intents, "_AHEAD_MAX", 0)


@pytest.fixture
async def archive(settings: Callable[..., Settings], database_url: str) -> AsyncIterator[Archive]:
    """An open archive on a database and a directory of its own, without graces."""
    opened = await open_archive(settings(database_url=database_url, tomb_grace_s=0, sweep_quarantine_s=0))
    yield opened
    await opened.close()


@pytest.fixture
def proxy(database_url: str) -> Iterator[PostgresProxy]:
    """What stands between an archive and its database, and cuts where it is told to."""
    with PostgresProxy(database_url) as between:
        yield between


@pytest.fixture
async def behind(settings: Callable[..., Settings], proxy: PostgresProxy) -> AsyncIterator[Archive]:
    """An archive that reaches its database through the proxy."""
    opened = await open_archive(settings(database_url=proxy.url, tomb_grace_s=0, sweep_quarantine_s=0))
    yield opened
    await opened.close()
