"""From resources to those of one level: upwards to what they are in, downwards to what is in them."""

from collections.abc import Sequence
from typing import Final

from dicomweb.errors import TooLarge
from dicomweb.tags import Level
from storage.access import Access
from storage.db import Database
from storage.resource_sql import ALIAS, JOINED

_MOST: Final = 100_000
_LEVELS: Final = tuple(Level)


async def related(db: Database, access: Access, resources: Sequence[bytes], level: Level) -> list[bytes]:
    """The identifiers at `level` of what the resources are, are in, or hold, each once; those of nobody are left out.

    Raises TooLarge where there are more than 100,000.
    """
    access.require("dicom.search", "dicom.read")
    rows = await db.fetch_sql(_statement(level), access.tenant, list(resources), _MOST + 1)
    if len(rows) > _MOST:
        raise TooLarge(f"these are more than {_MOST} resources of that level", attribute="Resources")
    return [row["orthanc_id"] for row in rows]


def _statement(level: Level) -> str:
    selects = []
    for each in _LEVELS:
        lower = max(level, each, key=_LEVELS.index)
        alias = ALIAS[each]
        selects.append(
            f"SELECT {ALIAS[level]}.orthanc_id FROM {JOINED[lower]}"  # noqa: S608
            f" WHERE {alias}.orthanc_id = ANY ($2::bytea[]) AND {alias}.tenant = $1"
        )
    return f"{' UNION '.join(selects)} LIMIT $3"
