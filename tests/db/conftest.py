"""Archives without a server, each on a database of its own."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import pytest

from storage.archive import Archive, open_archive
from storage.settings import Settings
from tests.support import Opened


@pytest.fixture
def opened(settings: Callable[..., Settings], database_url: str) -> Opened:
    """Opens an archive with settings, for as long as a context lasts; all of one test have one database."""

    @asynccontextmanager
    async def open_with(**more: object) -> AsyncIterator[Archive]:
        archive = await open_archive(settings(database_url=database_url, **more))
        try:
            yield archive
        finally:
            await archive.close()

    return open_with


@pytest.fixture
def archive_settings() -> Mapping[str, object]:
    """What `archive` is opened with; modules have settings of their own."""
    return {}


@pytest.fixture
async def archive(opened: Opened, archive_settings: Mapping[str, object]) -> AsyncIterator[Archive]:
    """An open archive."""
    async with opened(**archive_settings) as archive:
        yield archive
