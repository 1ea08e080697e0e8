"""Attributes of stored instances in the forms of Orthanc's REST API, from the index: no file is read for them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from dicomweb.errors import NotFound, TooLarge
from dicomweb.native_xml import native_xml
from dicomweb.orthanc_tags import MAX_TEXT, Format, formatted, parse, text_of
from dicomweb.tags import MODULES, Level
from storage.access import Access
from storage.cache import Cache
from storage.damage import Damage
from storage.db import Database, Record
from storage.objects import ObjectStore
from storage.resource import Resource, spelled
from storage.side_objects import stored_metadata

_CURSOR_ROWS: Final = 50
_ANSWERS: Final = 16 << 20
# Attributes of an instance as text: the most that is parsed, and from where on a thread does it.
_LONGEST: Final = 64 << 20
_THREAD_FROM: Final = 256 << 10
_PIXELS: Final = "7FE00010"
_END: Final = "FFFFFFFF"
# Available Transfer Syntax UID: in the stored metadata, but in no file.
_SYNTAX: Final = "00083002"


@dataclass(frozen=True, slots=True)
class Look:
    """The form of tags; `keep`: tags whose text may be long; `whole`: what is behind the pixel data, too."""

    form: Format = "Full"
    keep: tuple[str, ...] = ()
    whole: bool = False


class TagService:
    """Attributes by Orthanc's identifiers. Methods take the caller's rights; NotFound where there is nothing."""

    def __init__(self, db: Database, objects: ObjectStore, damage: Damage) -> None:
        self._db = db
        self._objects = objects
        self._damage = damage
        self._answers: Cache[tuple[int, bytes, Look], tuple[int, bytes]] = Cache(_ANSWERS)

    async def instance(self, access: Access, resource: Resource, look: Look) -> bytes:
        """All attributes of an instance, as finished JSON; kept as long as the instance is the same."""
        access.require("dicom.metadata")
        place = (access.tenant, resource.id, look)
        known = self._answers.get(place)
        row = await self._db.fetch_row("orthanc_metadata", access.tenant, resource.id, known[0] if known else None)
        if row is not None and known is not None and row["version"] == known[0]:
            return known[1]
        elements = await self._elements(access.tenant, row, "no such instance")
        assert row is not None

        def made() -> bytes:
            return orjson.dumps(self._formatted(elements, look), option=orjson.OPT_INDENT_2)

        answer = await asyncio.to_thread(made) if row["metadata_length"] > _THREAD_FROM else made()
        self._answers.put(place, (row["version"], answer), len(answer))
        return answer

    async def document(self, access: Access, resource: Resource) -> bytes:
        """The DICOM JSON of an instance; bulk data are named relative to its series."""
        access.require("dicom.metadata")
        row = await self._db.fetch_row("orthanc_metadata", access.tenant, resource.id, None)
        if row is None:
            raise NotFound("no such instance")
        return (await stored_metadata(self._objects, self._damage, access.tenant, row)).inflate()

    async def native(self, access: Access, resource: Resource) -> bytes:
        """The same as the Native DICOM Model in XML (PS3.19 A.1). Raises TooLarge."""
        access.require("dicom.metadata")
        row = await self._db.fetch_row("orthanc_metadata", access.tenant, resource.id, None)
        elements = await self._elements(access.tenant, row, "no such instance")
        elements.pop(_SYNTAX, None)
        return await asyncio.to_thread(native_xml, elements)

    async def module(self, access: Access, resource: Resource, level: Level, look: Look) -> dict[str, Any]:
        """The attributes of the module that identifies `level`, of the first instance in a resource."""
        access.require("dicom.metadata")
        if resource.level is Level.INSTANCE:
            row = await self._db.fetch_row("orthanc_metadata", access.tenant, resource.id, None)
        else:
            row = await self._db.fetch_row("orthanc_first_metadata", access.tenant, resource.level, resource.id)
        elements = await self._elements(access.tenant, row, f"no such {resource.level}")
        wanted = MODULES[level]
        return self._formatted({tag: element for tag, element in elements.items() if tag in wanted}, look)

    async def each(self, access: Access, resource: Resource, look: Look) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """The attributes of every instance in a resource, with its identifier, one at a time in memory."""
        access.require("dicom.metadata")
        sql, found = self._db.text("orthanc_each_metadata"), False
        async with self._db.cursor(sql, (access.tenant, resource.level, resource.id), _CURSOR_ROWS) as rows:
            async for row in rows:
                found = True
                yield spelled(row["orthanc_id"]), self._formatted(await self._elements(access.tenant, row, ""), look)
        if not found:
            raise NotFound(f"no such {resource.level}")

    async def shared(self, access: Access, resource: Resource, look: Look) -> dict[str, Any]:
        """What is the same in all instances of a resource, but for sequences and binary values.

        Of very long texts the index knows nothing.
        """
        access.require("dicom.metadata")
        rows = await self._db.fetch("orthanc_shared", access.tenant, resource.level, resource.id)
        if not rows:
            raise NotFound(f"no such {resource.level}")
        if len(rows) == 1 and rows[0]["instance_count"] == 1:
            row = await self._db.fetch_row("orthanc_first_metadata", access.tenant, resource.level, resource.id)
            common = await self._elements(access.tenant, row, f"no such {resource.level}")
        else:
            common = _common(rows[0])
        for row in rows[1:]:
            other = _common(row)
            common = {tag: element for tag, element in common.items() if other.get(tag) == element}
        plain = {tag: element for tag, element in sorted(common.items()) if _is_plain(element)}
        return self._formatted(plain, look)

    async def _elements(self, tenant: int, row: Record | None, missing: str) -> dict[str, Any]:
        if row is None:
            raise NotFound(missing)
        length = row["metadata_length"]
        if length > _LONGEST:
            raise TooLarge(f"the attributes take more than {_LONGEST} bytes; WADO-RS gives them as a stream")
        stored = await stored_metadata(self._objects, self._damage, tenant, row)
        if length > _THREAD_FROM:
            return await asyncio.to_thread(lambda: parse(stored.inflate()))
        return parse(stored.inflate())

    def _formatted(self, elements: Mapping[str, Any], look: Look) -> dict[str, Any]:
        end = _END if look.whole else _PIXELS
        elements = {tag: element for tag, element in elements.items() if tag <= end and tag != _SYNTAX}
        return formatted(elements, look.form, keep=look.keep, max_text=MAX_TEXT)


def _is_plain(element: Mapping[str, Any]) -> bool:
    return element["vr"] != "SQ" and text_of(element) is not None


def _common(row: Record) -> dict[str, Any]:
    """What all instances of a series have."""
    shared = parse("{" + row["shared"].replace("\n", ",") + "}")
    for tag in row["differing"]:
        shared.pop(tag, None)
    return parse(row["of_study"]) | parse(row["of_series"]) | shared


def ordered_slices(rows: list[Record]) -> tuple[str, list[tuple[str, int]]]:
    """`Volume` and the images of a series along its normal, or `Sequence` and them by their numbers.

    Each image by its identifier, with its number of frames.
    """
    places = [_place(row) for row in rows]
    distances = [place for place in places if place is not None]
    if len(distances) == len(rows) > 1 and len(set(distances)) == len(distances):
        order = sorted(range(len(rows)), key=lambda n: distances[n])
        return "Volume", [(spelled(rows[n]["orthanc_id"]), rows[n]["frames"]) for n in order]
    return "Sequence", [(spelled(row["orthanc_id"]), row["frames"]) for row in rows]


def _place(row: Record) -> float | None:
    """How far along the normal of its plane an image lies (PS3.3 C.7.6.2.1.1)."""
    position, plane = orjson.loads(row["position"]), orjson.loads(row["orientation"])
    if len(position) != 3 or len(plane) != 6 or row["frames"] != 1:
        return None
    try:
        x, y, z = map(float, position)
        a, b, c, d, e, f = map(float, plane)
    except (TypeError, ValueError):
        return None
    return x * (b * f - c * e) + y * (c * d - a * f) + z * (a * e - b * d)
