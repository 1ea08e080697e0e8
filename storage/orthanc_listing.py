"""The list of a source that changes while it is read: nothing that stays is passed over."""

from collections.abc import AsyncIterator
from typing import Final

from dicomweb.tags import Level
from storage.orthanc_connection import SourceGone
from storage.orthanc_source import Found, OrthancSource

PAGE: Final = 1000
_OVERLAP: Final = 10  # a tenth of a page
_CHANGES: Final = 1000


async def listed(source: OrthancSource, level: Level, page: int = PAGE) -> AsyncIterator[list[Found]]:
    """Every resource of a level, in pages; of a list that changes some may come again.

    The source counts from the beginning of its list, so that what was deleted before a page makes the next one begin
    too late. Pages overlap therefore: one that has nothing of the page before is preceded by what was passed over.
    Raises SourceError.
    """
    position, back, before = 0, page, frozenset[str]()
    while True:
        overlap = min(position, max(1, page // _OVERLAP))
        found = await source.page(level, position - overlap, page + overlap)
        names = frozenset(each.id for each in found)
        if position and before.isdisjoint(names):
            position, back = max(0, position - back), 2 * back
            before = before if position else frozenset()
            continue
        new = [each for each in found if each.id not in before]
        if new:
            yield new
        elif back == page:
            return
        position, back, before = position - overlap + len(found), page, names


async def changed(source: OrthancSource, since: int) -> AsyncIterator[list[Found]]:
    """What came or was changed after the change `since`, until there is no more. Raises SourceError."""
    while True:
        page = await source.changes(since, _CHANGES)
        found = []
        for level, identifier in page.resources:
            try:
                found.append(await source.resource(level, identifier))
            except SourceGone:
                continue
        if found:
            yield found
        if page.done or page.last <= since:
            return
        since = page.last
