"""Slides: descriptions of tiled instances in the index, and the slides put together from them, remembered by version.

A description is the DICOM JSON without its per-frame groups and the places of sparse frames. It is written after an
instance was stored, and where it is missing at the first use: losing one costs time, nothing else.
"""

import asyncio
import hashlib
import math
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from dicomweb.bulk import BulkTable
from dicomweb.deflate import DeflatedJson
from dicomweb.errors import NotFound, TooLarge, Unavailable
from dicomweb.frames import RECORD_SIZE
from dicomweb.part10 import Scan
from dicomweb.rendered.attributes import Item, binary, items, number
from dicomweb.slides.frame_sizes import OtherSizes
from dicomweb.slides.places import Places, read_places, split_metadata
from dicomweb.slides.pyramid import Slide, assemble
from dicomweb.slides.tiled import MATRIX_COLUMNS, WHOLE_SLIDE, NotTiled, Problem, Tiled, is_tiled
from dicomweb.uids import parse_orthanc_id
from storage.access import Access
from storage.cache import Cache
from storage.damage import Damage
from storage.db import Database
from storage.derived import fingerprint, with_object
from storage.objects import ObjectStore
from storage.once import Once
from storage.retrieve import Instance, instance_of
from storage.settings import Settings
from storage.side_objects import stored_metadata

# Instances of one slide: each optical path and focal plane of each level may be one.
_MAX_INSTANCES: Final = 10_000
# Attributes of one instance as JSON, and of a slide's instances together with the places of their frames, compressed.
_MAX_HEADER: Final = 1 << 20
_MAX_DESCRIPTIONS: Final = 64 << 20
# Descriptions up to here are put together at once, within two milliseconds; more of them in a thread.
_SMALL: Final = 16 << 10
# Bytes that parsed JSON takes in memory for one of its text.
_PARSED: Final = 8
# A profile has kilobytes, with tables a megabyte or two.
_MAX_PROFILE: Final = 8 << 20
_ORTHANC_IDS: Final = 4096
# Seconds for which a version that was looked up is taken for the current one, by requests that name it.
_TRUSTED: Final = 1.0
_PROFILE: Final = "00282000"
_PATHS: Final = "00480105"
# Beside the tags of a description: what was found of its frames when it was stored.
_OTHER_SIZES: Final = "other_sizes"


@dataclass(frozen=True, slots=True)
class Description:
    """What the index holds of a tiled instance; see the table `tiled`."""

    header: bytes
    places: bytes | None
    per_frame: bool
    icc_sha256: bytes | None

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.header) + len(self.places or b"")


@dataclass(frozen=True, slots=True)
class Made:
    """The object with coarse levels of a slide, made of tiled instances with this fingerprint."""

    fingerprint: bytes
    key: str
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class StoredSlide:
    """A slide and where it lies: `instances` are those of `slide.instances`, `icc` the digests of their profiles.

    `name` is the version as URLs carry it; `checked` holds when it was last known to be the current one, by the clock
    of the event loop. `weight`: bytes in memory, about. `fingerprint`: of the tiled instances that are stored.
    """

    study: str
    series: str
    version: int
    slide: Slide
    instances: tuple[Instance, ...]
    icc: tuple[str, ...]
    name: str
    checked: list[float]
    weight: int
    fingerprint: bytes


class SlideIndex:
    """The slides of the archive. Methods that read take the caller's rights; what they may not see does not exist."""

    def __init__(self, settings: Settings, db: Database, objects: ObjectStore, damage: Damage) -> None:
        self._db = db
        self._objects = objects
        self._damage = damage
        self._slides: Cache[tuple[int, str], StoredSlide] = Cache(settings.slide_cache_bytes, kept=1)
        self._loading: Once[tuple[int, str] | tuple[int, str, int], StoredSlide] = Once()
        self._asked: dict[tuple[int, str], asyncio.Future[int | None]] = {}
        self._asking = False
        self._rounds: asyncio.Task[None] | None = None
        self._orthanc: OrderedDict[tuple[int, str], str] = OrderedDict()

    # -- reading

    async def slide(self, access: Access, series: str, wanted: str | None = None) -> StoredSlide:
        """The slide that a series is now: one statement, whether it is remembered or not. Raises NotFound.

        Nothing can change of the version `wanted`, but that it is gone: whether it is, is looked up once a second.
        """
        access.require("dicom.read")
        key = (access.tenant, series)
        held = self._slides.get(key)
        now = asyncio.get_running_loop().time()
        if held is not None and wanted == held.name and now - held.checked[0] < _TRUSTED:
            return held
        if held is None and key not in self._loading:
            return await self._loading.do(key, lambda: self._load(access.tenant, series))
        version = await self._version(*key)
        held = self._slides.get(key)
        if held is not None and held.version == version:
            held.checked[0] = now
            return held
        if version is None:
            self._slides.drop(key)
            raise NotFound("no such series")
        # Not what is loading already: that may have begun before the instance was stored that the caller knows of.
        return await self._loading.do((*key, version), lambda: self._load(access.tenant, series))

    async def prepare(self) -> None:
        """Have the database parse and plan the statement for a slide now, for which viewers would wait 5 ms and more.

        It plans a statement anew five times before it keeps the plan.
        """
        with suppress(Unavailable):  # the first statement of a request will say so
            for _ in range(6):
                await self._db.fetch("slide_instances", 0, "", WHOLE_SLIDE, 1, 0)

    async def series_of(self, access: Access, orthanc_id: str) -> str:
        """The Series Instance UID for an Orthanc identifier. Raises NotFound."""
        access.require("dicom.read")
        key = (access.tenant, orthanc_id)
        known = self._orthanc.get(key)
        if known is not None:
            return known  # an identifier is a hash of the UIDs: it never comes to mean another series
        digest = parse_orthanc_id(orthanc_id)
        found: str | None = await self._db.fetch_value("series_of_orthanc", access.tenant, digest)
        if found is None:
            raise NotFound("no such series")
        self._orthanc[key] = found
        if len(self._orthanc) > _ORTHANC_IDS:
            self._orthanc.popitem(last=False)
        return found

    async def lost(self, derived: Instance) -> None:
        """The object of levels that were made is gone or damaged: they do not count any more, and are made anew."""
        await self._db.execute("derived_lost", derived.tenant, derived.series, derived.key)
        self._slides.drop((derived.tenant, derived.series))

    async def _version(self, tenant: int, series: str) -> int | None:
        """The version of a series, read after this call: who comes while a statement runs shares the next one."""
        if not self._asking:
            self._asking = True
            try:
                return await self._db.fetch_value("series_version_of", tenant, series)  # type: ignore[no-any-return]
            finally:
                if self._asked:
                    self._rounds = asyncio.create_task(self._ask())
                else:
                    self._asking = False
        future = self._asked.get((tenant, series))
        if future is None:
            future = self._asked[tenant, series] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(future)

    async def _ask(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, {}
                for tenant in {tenant for tenant, _ in asked}:
                    await self._ask_of(tenant, {key[1]: future for key, future in asked.items() if key[0] == tenant})
        finally:
            self._asking = False

    async def _ask_of(self, tenant: int, asked: dict[str, asyncio.Future[int | None]]) -> None:
        try:
            rows = await self._db.fetch("series_versions", tenant, list(asked))
        except BaseException as error:  # noqa: BLE001 - the error belongs to those who wait for the answer
            for future in asked.values():
                future.set_exception(error)
                future.exception()  # whoever asked may have gone
            return
        versions = {row["series_uid"]: row["version"] for row in rows}
        for series, future in asked.items():
            future.set_result(versions.get(series))

    async def _load(self, tenant: int, series: str) -> StoredSlide:
        asked = asyncio.get_running_loop().time()
        limits = _MAX_INSTANCES + 1, _MAX_DESCRIPTIONS
        rows = await self._db.fetch("slide_instances", tenant, series, WHOLE_SLIDE, *limits)
        if not rows:
            raise NotFound("no such series, or it has no tiled image")
        if len(rows) > _MAX_INSTANCES or any(row["beyond"] for row in rows):
            raise TooLarge(f"the series has more than {_MAX_INSTANCES} tiled images, or too much is said of them")
        found: list[tuple[Instance, Description, int]] = []
        for row in rows:
            instance = instance_of(tenant, row["study_uid"], row)
            described = (
                Description(row["header"], row["places"], row["per_frame"], row["icc_sha256"])
                if row["header"] is not None
                else await self._describe_stored(instance)
            )
            if described is not None:
                found.append((instance, described, (row["table_size"] or 0) // RECORD_SIZE))
        first = rows[0]
        made = Made(first["made_of"], first["made_key"], first["made_size"]) if first["made_key"] else None
        parts = first["study_uid"], series, first["parent_version"], found, made
        small = sum(described.size for _, described, _ in found) <= _SMALL
        stored = _assembled(*parts) if small else await asyncio.to_thread(_assembled, *parts)
        stored.checked[0] = asked
        self._slides.put((tenant, series), stored, stored.weight)
        return stored

    # -- describing

    async def describe(self, tenant: int, scan: Scan, key: str, file_sha256: bytes) -> None:
        """Describe an instance that was just stored under `key`, if it is a tiled image."""
        if MATRIX_COLUMNS not in scan.elements:
            return
        bulk = None if scan.deflated else scan.bulk
        made = await self._description(scan.metadata, key, 0, bulk, scan.other_sizes)
        if made is not None:
            await self._write(tenant, scan.sop_instance_uid, file_sha256, made)

    async def _describe_stored(self, instance: Instance) -> Description | None:
        """Describe an instance that was stored before there were descriptions."""
        row = await self._db.fetch_row("undescribed", instance.tenant, instance.sop, instance.key)
        if row is None:
            return None
        metadata = await stored_metadata(self._objects, self._damage, instance.tenant, row)
        bulk = None if instance.deflated else BulkTable.from_bytes(row["bulk_table"])
        made = await self._damage.reading(
            instance.tenant,
            instance.sop,
            instance.key,
            self._description(metadata, instance.key, instance.base, bulk),
        )
        if made is not None:
            await self._write(instance.tenant, instance.sop, row["file_sha256"], made)
        return made

    async def _write(self, tenant: int, sop: str, file_sha256: bytes, made: Description) -> None:
        row = (made.per_frame, made.icc_sha256, made.header, made.places)
        await self._db.execute("describe_tiled", tenant, sop, file_sha256, *row)

    async def _description(
        self, metadata: DeflatedJson, key: str, base: int, bulk: BulkTable | None, other: OtherSizes | None = None
    ) -> Description | None:
        """The description of an instance whose object has its file from byte `base` on; None when it is not tiled."""
        made, dataset = await asyncio.to_thread(_described, metadata, other)
        if made is None:
            return None
        digest = await self._profile_digest(dataset, key, base, bulk)
        return replace(made, icc_sha256=digest)

    async def _profile_digest(self, dataset: Item, key: str, base: int, bulk: BulkTable | None) -> bytes | None:
        for path, item in ((f"{_PATHS}/0/{_PROFILE}", next(iter(items(dataset, _PATHS)), {})), (_PROFILE, dataset)):
            entry = None if bulk is None else bulk.lookup(path)
            if entry is not None and entry.length <= _MAX_PROFILE:
                profile = await self._objects.get_range(key, base + entry.offset, entry.length)
                return hashlib.sha256(profile).digest()
            inline = binary(item.get(_PROFILE), {})
            if inline:
                return hashlib.sha256(inline).digest()
        return None


def _described(metadata: DeflatedJson, other: OtherSizes | None) -> tuple[Description | None, Item]:
    """The description but for the profile, and the attributes. Seconds for the largest slides: for a thread."""
    text = metadata.inflate()
    header, where = split_metadata(text)
    dataset: Item = orjson.loads(header)
    if not is_tiled(dataset) or len(header) > _MAX_HEADER:
        return None, dataset
    if other is not None:
        header = orjson.dumps({**dataset, _OTHER_SIZES: other.as_json()})
    places = None
    if where[1]:
        places = read_places(text, where, int(number(dataset, "00280008") or 0))
    return Description(zlib.compress(header), places.to_bytes() if places else None, where[1] > 0, None), dataset


def _assembled(
    study: str, series: str, version: int, found: Sequence[tuple[Instance, Description, int]], made: Made | None
) -> StoredSlide:
    """The slide of these instances, with the levels that were made of exactly them."""
    tiled: list[Tiled] = []
    kept: list[tuple[Instance, Description]] = []
    problems: list[Problem] = []
    weight = 0
    for instance, described, frames in found:
        header = zlib.decompress(described.header)
        weight += _PARSED * len(header)
        dataset: dict[str, Any] = orjson.loads(header)
        other = dataset.pop(_OTHER_SIZES, None)
        places = None if described.places is None else Places.from_bytes(described.places)
        try:
            tiled.append(Tiled.of(dataset, places, per_frame=described.per_frame, frames=frames))
        except NotTiled as problem:
            problems.append(Problem(problem.name, problem.detail, instance.sop))
        else:
            kept.append((instance, described))
            if other is not None:
                detail = OtherSizes.from_json(other).told(tiled[-1].rows, tiled[-1].columns)
                problems.append(Problem("other-size", detail, instance.sop))
    digests = tuple(described.icc_sha256.hex() if described.icc_sha256 else "" for _, described in kept)
    instances = tuple(instance for instance, _ in kept)
    slide = assemble(tiled, problems)
    stored = StoredSlide(
        study,
        series,
        version,
        slide,
        instances,
        digests,
        f"{version:x}",
        [-math.inf],
        weight + slide.weight,
        fingerprint(instances),
    )
    if made is None or made.fingerprint != stored.fingerprint:
        return stored
    slide, instances = with_object(slide, instances, made.key, made.size, made.fingerprint)
    return replace(stored, slide=slide, instances=instances, weight=weight + slide.weight)
