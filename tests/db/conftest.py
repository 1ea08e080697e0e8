"""Archives without a server, each on a database of its own."""

from collections.abc import AsyncIterator, Mapping

import pytest

from storage.archive import Archive
from tests.support import Opened


@pytest.fixture
def archive_settings() -> Mapping[str, object]:
    """What `archive` is opened with; modules have settings of their own."""
    return {}


@pytest.fixture
async def archive(opened: Opened, archive_settings: Mapping[str, object]) -> AsyncIterator[Archive]:
    """An open archive."""
    async with opened(**archive_settings) as archive:
        yield archive
