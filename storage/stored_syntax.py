"""Keeps instances in the transfer syntaxes that the rules ask for: a reader of the change feed, run by the worker.

What was sent is stored and acknowledged first. Its object goes only when the one that takes its place is durable, and
was read back and found to hold the same attributes and the same pixels.
"""

import asyncio
import hashlib
import logging
import uuid
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

import orjson

from dicomweb.errors import ArchiveError, CorruptObject, NotFound, ObjectMissing, Unavailable
from dicomweb.frames import FrameTable, bit_span
from dicomweb.pixels.image import ImagePixel, Pixels
from dicomweb.pixels.syntaxes import LOSSY, can_encode, is_repacked
from dicomweb.rules import parse_rules, wanted
from dicomweb.wado import bulk_path_of
from storage.access import Access
from storage.archive import Archive
from storage.leases import renewed
from storage.parallel import side_by_side
from storage.pixels import Dataset, Image
from storage.retrieve import Instance, Located
from storage.rows import Prepared
from storage.spool import Spooled

log = logging.getLogger(__name__)

_READER: Final = "transcode"
_LEASE: Final = timedelta(seconds=15)
_BATCH: Final = 64
# Workers that died over a batch before it is done one by one, and before its first instance is left as it is.
_SUSPECT, _GUILTY = 2, 4
_FRAMES: Final = 200
_SCOPES: Final = frozenset(("dicom.read", "dicom.metadata", "dicom.write"))
# What another transfer syntax changes: its name in the metadata, Photometric Interpretation, Planar Configuration, the
# pixel data and where frames lie in them, and what fills the file up behind them.
_CHANGED: Final = frozenset(
    (
        "00083002",
        "00280004",
        "00280006",
        "7FE00001",
        "7FE00002",
        "7FE00003",
        "7FE00008",
        "7FE00009",
        "7FE00010",
        "FFFCFFFC",
    )
)


@dataclass(frozen=True, slots=True)
class Progress:
    """Changes that wait to be looked at; instances transcoded, and left as they were although a rule names them."""

    waiting: int
    done: int
    failed: int
    saved: int  # bytes; negative where objects grew


async def progress(archive: Archive) -> Progress | None:
    """How far the rules have come since they were set; None where there are none, or no worker has seen them yet."""
    row = await archive.db.fetch_row("reader_totals", _READER)
    return None if row is None else Progress(**dict(row))


async def begin_anew(archive: Archive) -> None:
    """Have everything that is stored looked at by the present rules, in the background."""
    await archive.db.execute("reader_begin", _READER)
    await archive.db.execute("reader_rewind", _READER)


@dataclass(slots=True)
class _Totals:
    done: int = 0
    failed: int = 0
    saved: int = 0


class StoredSyntax:
    """One worker's part. Any number of workers may run; one of them reads at a time."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._db = archive.db
        self._rules = parse_rules(archive.settings.transcode)
        self._worker = uuid.uuid4()

    async def step(self) -> None:
        """Deal with everything that the change feed holds. Raises Unavailable; what was done until then stays done."""
        if not self._rules:
            await self._db.execute("reader_end", _READER)
            return
        await self._db.execute("reader_begin", _READER)
        async with renewed(_LEASE, lambda: self._db.execute("reader_renew", _READER, self._worker, _LEASE)):
            while await self._batch():
                pass

    async def _batch(self) -> bool:
        claimed = await self._db.fetch_row("reader_claim", _READER, self._worker, _LEASE)
        if claimed is None:
            return False
        seq, tries = claimed["seq"], claimed["tries"]
        rows = await self._db.fetch("stored_syntaxes", seq, _BATCH)
        if tries <= _SUSPECT:
            return await self._part(seq, rows)
        for row in rows:
            if not await self._part(seq, [row], guilty=tries > _GUILTY):
                return False
            seq, tries = row["seq"], 0
        return True

    async def _part(self, seq: int, rows: Sequence[Any], *, guilty: bool = False) -> bool:
        """Deal with changes behind `seq` and move on; False where somebody else did."""
        totals = _Totals()
        if guilty:
            log.error("an instance stays as it was received: workers died over it")
            totals.failed += 1
        else:
            try:
                # As many at once as there are decoders; the first that finds a service down ends all.
                await side_by_side(lambda row: self._one(row, totals), rows, self._archive.decoders.size)
            except Unavailable:
                await self._db.execute("reader_pause", _READER, self._worker)
                raise
        counts = (totals.done, totals.failed, totals.saved)
        moved: bool | None = await self._db.fetch_value(
            "reader_advance", _READER, self._worker, seq, rows[-1]["seq"], *counts
        )
        return moved is not None

    async def _one(self, row: Any, totals: _Totals) -> None:
        if row["sop_uid"] is None or not row["has_frames"]:
            return
        target = wanted(self._rules, row["modality"])
        if not _applies(row["transfer_syntax"], target):
            return
        access = Access(row["tenant"], "transcode", _SCOPES)
        try:
            saved = await self._exchange(access, row, target)
        except Unavailable:
            raise
        except ArchiveError as error:
            if isinstance(error, NotFound) and not isinstance(error, ObjectMissing):  # deleted meanwhile
                return
            log.warning("an instance stays as it was received: %s (%s)", error.message, error.attribute)
            totals.failed += 1
            return
        if saved is not None:
            totals.done += 1
            totals.saved += saved

    async def _exchange(self, access: Access, row: Any, target: str) -> int | None:
        """Bytes that were saved; None where the instance is not to be, or was not, transcoded."""
        archive = self._archive
        instance = await archive.retrieve.instance(access, row["study_uid"], None, row["sop_uid"])
        pixel = ImagePixel.of(await archive.pixels.dataset(access, instance))
        if instance.transfer_syntax == target or not can_encode(pixel, instance.transfer_syntax, target):
            return None
        received = await self._digest(instance, row["file_sha256"])
        spooled = await self._transcoded(access, instance, target)

        async def verify(prepared: Prepared) -> None:
            await _Comparison(archive, access, instance, prepared).run()

        size = spooled.size
        done = await archive.ingest.exchange(access, spooled, instance, received, verify)
        return instance.size - size if done else None

    async def _digest(self, instance: Instance, file_sha256: bytes) -> bytes:
        """The digest of the dataset, of an object that is whole."""
        file, dataset = hashlib.sha256(), hashlib.sha256()
        head = instance.meta_size
        async for chunk in self._archive.retrieve.file(instance):
            await asyncio.to_thread(file.update, chunk)
            await asyncio.to_thread(dataset.update, memoryview(chunk)[head:])
            head = max(0, head - len(chunk))
        if file.digest() != file_sha256:
            error = CorruptObject("the object is not what was received")
            raise self._archive.damage.noted(instance.tenant, instance.sop, instance.key, error)
        return dataset.digest()

    async def _transcoded(self, access: Access, instance: Instance, target: str) -> Spooled:
        async with aclosing(self._archive.transcode.instance(access, instance, target)) as chunks:
            return await self._archive.new_spool().collect(chunks)


def _applies(stored: str, target: str) -> bool:
    """Whether a rule says anything of instances in `stored`: what lost something before is only ever packed."""
    return bool(target) and stored != target and (stored not in LOSSY or is_repacked(stored, target))


class _Comparison:
    """A stored instance, and the durable object that is to take its place. Raises CorruptObject where they differ."""

    def __init__(self, archive: Archive, access: Access, old: Instance, prepared: Prepared) -> None:
        scan = prepared.scan
        self._archive = archive
        self._access = access
        self._old = old
        self._scan = scan
        self._new = replace(
            old,
            key=prepared.key,
            base=0,
            size=prepared.size,
            transfer_syntax=scan.transfer_syntax,
            version=prepared.file_sha256.hex(),
            meta_size=scan.meta_size,
            deflated=scan.deflated,
        )

    async def run(self) -> None:
        """Compare attributes, then frames."""
        before = await self._archive.pixels.dataset(self._access, self._old)
        after: Dataset = orjson.loads(await asyncio.to_thread(self._scan.metadata.inflate))
        await self._datasets(_kept(before), _kept(after))
        await self._frames(after)

    async def _datasets(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        if before.keys() != after.keys():
            tag = min(before.keys() ^ after.keys())
            raise CorruptObject("the transcoded instance has other attributes", attribute=tag)
        for tag, element in before.items():
            other = after[tag]
            if element["vr"] != other["vr"]:
                raise CorruptObject("the transcoded instance has another VR", attribute=tag)
            if element["vr"] == "SQ":
                items, others = element.get("Value", []), other.get("Value", [])
                if len(items) != len(others):
                    raise CorruptObject("the transcoded instance has other items", attribute=tag)
                for item, twin in zip(items, others, strict=True):
                    await self._datasets(item or {}, twin or {})
            elif "BulkDataURI" in element and "BulkDataURI" in other:
                await self._bulk(tag, element["BulkDataURI"], other["BulkDataURI"])
            elif element != other:
                raise CorruptObject("the transcoded instance has another value", attribute=tag)

    async def _bulk(self, tag: str, uri: str, other: str) -> None:
        retrieve, old = self._archive.retrieve, self._old
        entry = self._scan.bulk.lookup(bulk_path_of(other))
        located = await retrieve.bulk(self._access, old.study, old.series, old.sop, bulk_path_of(uri))
        if entry is None or await retrieve.read_all(located) != await retrieve.read_all(
            Located(self._new, (((entry.offset, entry.length),),), vr=entry.vr)
        ):
            raise CorruptObject("the transcoded instance has another bulk value", attribute=tag)

    async def _frames(self, after: Dataset) -> None:
        old, table = self._old, self._scan.frames or FrameTable(b"")
        count = await self._archive.retrieve.frame_count(self._access, old)
        if count != table.count:
            raise CorruptObject(f"the transcoded instance has {table.count} frames instead of {count}")
        pixel = ImagePixel.of(after)
        for start in range(0, count, _FRAMES):
            indexes = range(start, min(start + _FRAMES, count))
            numbers = tuple(index + 1 for index in indexes)
            image = await self._archive.pixels.image(self._access, old.study, old.series, old.sop, numbers)
            if image.instance.key != old.key:
                raise NotFound("the instance was replaced")
            located = Located(
                self._new,
                tuple(table.locate(index) for index in indexes),
                tuple(bit_span(table.record(index)) for index in indexes),
            )
            await self._images(image, Image(located, numbers, after, pixel))

    async def _images(self, image: Image, other: Image) -> None:
        pixels = self._archive.pixels
        repacked = is_repacked(image.instance.transfer_syntax, other.instance.transfer_syntax)
        async with aclosing(pixels.stored(image)) as values, aclosing(pixels.stored(other)) as others:
            async for value in values:
                twin = await anext(others)
                if repacked:
                    jpeg = await self._archive.decoders.restore(twin, other.pixel)
                    same = jpeg.rstrip(b"\0") == value.rstrip(b"\0")
                else:
                    decoded = await pixels.decode(image, value)
                    same = await asyncio.to_thread(_same, decoded, await pixels.decode(other, twin))
                if not same:
                    raise CorruptObject("the transcoded instance has other pixels", attribute="PixelData")


def _kept(dataset: Dataset) -> Dataset:
    return {tag: element for tag, element in dataset.items() if tag not in _CHANGED}


def _same(pixels: Pixels, other: Pixels) -> bool:
    """Bit by bit, so that every NaN of float pixels counts."""
    mine, theirs = pixels.array, other.array
    return (
        pixels.photometric == other.photometric
        and (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        and mine.tobytes() == theirs.tobytes()
    )
