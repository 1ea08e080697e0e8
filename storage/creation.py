"""New instances, made of what a client sends: pictures are decoded where hostile bytes can do no harm."""

import asyncio
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from dicomweb.creation.content import PNG, Content
from dicomweb.creation.files import Piece, fresh, inherited, pieces
from dicomweb.creation.request import Attributes, Creation
from dicomweb.errors import BadDicom, BadPixels, BadRequest, NoParent, NotFound, ParentIsInstance
from dicomweb.pixels.syntaxes import JPEG_BASELINE
from dicomweb.tags import MODULES, Level
from dicomweb.uids import parse_orthanc_id
from storage.access import Access
from storage.db import Database
from storage.decoders import DecoderPool
from storage.objects import ObjectStore
from storage.settings import Settings
from storage.spool import Spool, Spooled

# Of many files, how much of each may stay in memory.
_SMALL: Final = 64 << 10


class CreationService:
    """Makes files; storing them is the ingest service's. Takes the caller's rights as every service."""

    def __init__(self, settings: Settings, db: Database, objects: ObjectStore, decoders: DecoderPool) -> None:
        self._settings = settings
        self._db = db
        self._objects = objects
        self._decoders = decoders

    async def files(self, access: Access, creation: Creation) -> list[Spooled]:
        """The files of all instances, which the caller releases; none where one of them cannot be made.

        Raises BadRequest and BadDicom for what is wrong in the request, Unavailable when decoders or disk are full.
        """
        access.require("dicom.write")
        level, parent = await self._parent(access, creation.parent)
        base = fresh(level, datetime.now(UTC).astimezone(), _new_uid, str(uuid.uuid4()))
        base |= inherited(parent, creation)
        made: list[Spooled] = []
        try:
            for number in range(len(creation.instances)):
                made += [await self._file(creation, number, base, new_series=level is not Level.SERIES)]
        except BaseException:
            for each in made:
                each.release()
            raise
        return made

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

    async def _file(self, creation: Creation, number: int, base: Attributes, *, new_series: bool) -> Spooled:
        content = creation.instances[number].content
        encapsulated = creation.encapsulate and content is not None and content.image is not None
        if encapsulated and content is not None and content.media_type == PNG:
            raise BadRequest("only JPEG pictures can be encapsulated", attribute="Encapsulate")
        pixels = None
        if content is not None and content.image is not None and not encapsulated:
            pixels = await self._decoded(content)
        made = await asyncio.to_thread(pieces, creation, number, base, _new_uid(), pixels, new_series=new_series)
        return await self._spooled(made, alone=len(creation.instances) == 1)

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

    async def _spooled(self, made: list[Piece], *, alone: bool) -> Spooled:
        settings = self._settings
        limit = settings.spool_memory if alone else min(_SMALL, settings.spool_memory)
        spool = Spool(self._objects.spool_dir, memory_limit=limit, max_size=settings.max_instance)
        try:
            for piece in made:
                if piece:
                    await spool.write(piece)
            return await spool.finish()
        except BaseException:
            spool.discard()
            raise


def _new_uid() -> str:
    return f"2.25.{uuid.uuid4().int}"
