"""The archive for the length of a command, in this process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from storage.archive import Archive, open_archive
from storage.migrate import migrate, require_current
from storage.settings import Settings


@asynccontextmanager
async def archive_at(settings: Settings, url: str, *, migrates: bool = False) -> AsyncIterator[Archive]:
    """The archive whose database is at `url`; a database of our own is brought up to date first where it `migrates`.

    Raises MigrationError for one that is not up to date.
    """
    if migrates and settings.database_url is None:
        await migrate(url)
    else:
        await require_current(url)
    archive = await open_archive(settings)
    try:
        yield archive
    finally:
        await archive.close()
