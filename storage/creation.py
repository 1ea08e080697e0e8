"""New instances, made of what a client sends: pictures are decoded where hostile bytes can do no harm."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Final

import orjson

from dicomweb.creation.content import PNG, Content
from dicomweb.creation.files import Piece, fresh, inherited, pieces
from dicomweb.creation.request import Attributes, Creation
from dicomweb.errors import BadDicom, BadPixels, BadRequest, NoParent, NotFound, ParentIsInstance, TooLarge
from dicomweb.pixels.syntaxes import JPEG_BASELINE
from dicomweb.tags import MODULES, Level
from dicomweb.uids import parse_orthanc_id
from storage.access import Access
from storage.db import Database
from storage.decoders import DecoderPool
from storage.objects import ObjectStore
from storage.settings import Settings
from storage.spool import Spool, Spooled

# All files of one request: twice what its pictures may take.
_MAX_FILES: Final = 2 << 30
_CHUNK: Final = 1 << 20


class CreationService:
    """Makes files; storing them is the ingest service's. Takes the caller's rights as every service."""

    def __init__(self, settings: Settings, db: Database, objects: ObjectStore, decoders: DecoderPool) -> None:
        self._settings = settings
        self._db = db
        self._objects = objects
        self._decoders = decoders

    async def files(self, access: Access, creation: Creation) -> AsyncGenerator[Spooled, None]:
        """The file of one instance after the other, which the caller releases; none where one of them cannot be made.

        All of them wait in one spool, whose size is bounded. Raises BadRequest and BadDicom for what is wrong in the
        request, TooLarge, and Unavailable when decoders or disk are full.
        """
        access.require("dicom.write")
        level, parent = await self._parent(access, creation.parent)
        base = fresh(level, datetime.now(UTC).astimezone(), _new_uid, str(uuid.uuid4()))
        base |= inherited(parent, creation)
        spool = self._spool(_MAX_FILES, raw=True)
        sizes: list[int] = []
        try:
            for number in range(len(creation.instances)):
                made = await self._file(creation, number, base, new_series=level is not Level.SERIES)
                sizes.append(self._checked(made, spool.size))
                for piece in made:
                    await spool.write(piece)
            together = await spool.finish()
        except BaseException:
            spool.discard()
            raise
        try:
            with memoryview(together.buffer()) as buffer:
                for end, size in zip(accumulate(sizes), sizes, strict=True):
                    yield await self._spooled(buffer[end - size : end])
        finally:
            together.release()

    async def _parent(self, access: Access, identifier: str) -> tuple[Level | None, Mapping[str, Any]]:
        """Level and attributes of the parent: those of the modules that identify it and what is above it."""
        if not identifier:
            return None, {}
        row = None
        with suppress(NotFound):
            row = await self._db.fetch_row("creation_parent", access.tenant, parse_orthanc_id(identifier))
        if row is None:
            raise NoParent("there is no such parent", attribute="Parent")
        if row["level"] == Level.INSTANCE:
            raise ParentIsInstance("the parent is a patient, a study or a series", attribute="Parent")
        access.require("dicom.metadata")
        level = Level(row["level"])
        known: dict[str, Any] = orjson.loads(row["attributes"])
        wanted = frozenset[str]().union(*(MODULES[each] for each in tuple(Level)[: tuple(Level).index(level) + 1]))
        return level, {"00100020": {"vr": "LO"}} | {tag: known[tag] for tag in sorted(wanted & known.keys())}

    async def _file(self, creation: Creation, number: int, base: Attributes, *, new_series: bool) -> list[Piece]:
        content = creation.instances[number].content
        encapsulated = creation.encapsulate and content is not None and content.image is not None
        if encapsulated and content is not None and content.media_type == PNG:
            raise BadRequest("only JPEG pictures can be encapsulated", attribute="Encapsulate")
        pixels = None
        if content is not None and content.image is not None and not encapsulated:
            pixels = await self._decoded(content)
        made = await asyncio.to_thread(pieces, creation, number, base, _new_uid(), pixels, new_series=new_series)
        return [piece for piece in made if piece]

    def _checked(self, made: Sequence[Piece], before: int) -> int:
        """The size of a file, behind that many bytes of others. Raises TooLarge."""
        size, largest = sum(map(len, made)), self._settings.max_instance
        if size > largest:
            raise TooLarge(f"an instance is larger than {largest} bytes (max_instance)", attribute="Content")
        if before + size > _MAX_FILES:
            raise TooLarge(f"the instances take more than {_MAX_FILES} bytes together", attribute="Content")
        return size

    async def _decoded(self, content: Content) -> Any:
        image = content.image
        assert image is not None
        try:
            if content.media_type == PNG:
                return await self._decoders.picture(content.data, image)
            # What a stream of three components holds where it does not say it itself.
            stored = image if image.samples == 1 else replace(image, photometric="YBR_FULL_422")
            return (await self._decoders.decode(JPEG_BASELINE, content.data, stored)).array
        except BadPixels as error:
            raise BadDicom(f"Content cannot be decoded: {error.message}", attribute="Content") from error

    async def _spooled(self, file: memoryview) -> Spooled:
        spool = self._spool(len(file), raw=False)
        try:
            for at in range(0, len(file), _CHUNK):
                await spool.write(await asyncio.to_thread(bytes, file[at : at + _CHUNK]))
            return await spool.finish()
        except BaseException:
            spool.discard()
            raise

    def _spool(self, size: int, *, raw: bool) -> Spool:
        return Spool(self._objects.spool_dir, memory_limit=self._settings.spool_memory, max_size=size, raw=raw)


def _new_uid() -> str:
    return f"2.25.{uuid.uuid4().int}"
