"""Transfers in buckets: what is announced, sent and received, in rows and objects that every process shares.

What comes is not an instance yet: each bucket is an object of its own until all of them are there. Then the files are
put together from them, checked, and stored through the one ingest service.
"""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

import orjson

from dicomweb.errors import BadRequest, Conflict, NotFound, TooLarge, Unavailable
from dicomweb.tags import Level
from dicomweb.transfers import MAX_INSTANCES, Compression, Member, Place, Plan
from storage.access import Access
from storage.db import Database
from storage.integrity import digested
from storage.objects import ObjectStore
from storage.owned_objects import OwnedObjects
from storage.parallel import side_by_side
from storage.resource import Resource, spelled
from storage.settings import Settings
from storage.spool import Spool, Spooled

Role = Literal["received", "pulled", "sent"]

COMMIT: Final = "CommitTransfer"

_AT_ONCE: Final = 4  # files that are read for their digests
_PAGE: Final = 200
_NOTED_AT_ONCE: Final = 500
_IDLE: Final = timedelta(hours=2)
_KEPT: Final = timedelta(days=1)
_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer that is under way. `path`: where the peer has one that is sent."""

    id: str
    compression: Compression
    instances: int
    size: int
    path: str | None


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket that is neither sent nor come; `ids` of its instances, from `offset` of the first one's file on."""

    number: int
    size: int
    ids: tuple[str, ...]
    offset: int
    pieces: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class File:
    """A file in the buckets that came: objects, and the range of each."""

    name: str
    md5: bytes
    parts: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """The file of a stored instance within its object."""

    key: str
    base: int
    size: int


class TransferService:
    """Both halves of the protocol. Every method takes the caller's rights."""

    def __init__(self, settings: Settings, db: Database, objects: ObjectStore) -> None:
        self._settings = settings
        self._db = db
        self._objects = objects
        self._owned = OwnedObjects(settings, db, objects)
        self._grace = timedelta(seconds=settings.tomb_grace_s)

    # -- what is stored here

    async def originator(self, access: Access) -> str:
        """Who this archive is to those that it asks to pull: the same in every process."""
        return str(await self._db.fetch_value("transfer_originator", access.tenant))

    async def require(self, access: Access, resources: Sequence[Resource]) -> None:
        """Raise NotFound unless all of them exist."""
        access.require("dicom.read")
        rows = await self._db.fetch("orthanc_known", access.tenant, [each.id for each in resources])
        known = {(row["level"].lower(), row["orthanc_id"]) for row in rows}
        for each in resources:
            if (str(each.level), each.id) not in known:
                raise NotFound(f"no such {each.level}")

    async def members(self, access: Access, resources: Sequence[Resource]) -> list[Member]:
        """The instances of resources, each once. Raises NotFound, and TooLarge where they are too many.

        A digest that nobody has asked for takes reading the file.
        """
        await self.require(access, resources)
        digests = [each.id for each in resources]
        rows = await self._db.fetch("transfer_instances", access.tenant, digests, MAX_INSTANCES + 1)
        if len(rows) > MAX_INSTANCES:
            raise TooLarge(f"the resources hold more than {MAX_INSTANCES} instances; transfer them in parts")
        unknown = [row for row in rows if row["md5"] is None]
        found: dict[bytes, bytes] = {}
        for start in range(0, len(unknown), _NOTED_AT_ONCE):  # what breaks off goes on from here
            found |= await self._digests(unknown[start : start + _NOTED_AT_ONCE])
        return [
            Member(spelled(row["orthanc_id"]), row["object_size"], row["md5"] or found[row["orthanc_id"]])
            for row in rows
        ]

    async def _digests(self, rows: Sequence[Any]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}

        async def digest(row: Any) -> None:
            chunks = self._objects.stream(row["object_key"], row["object_offset"], row["object_size"])
            found[row["orthanc_id"]] = await digested(chunks, hashlib.md5(usedforsecurity=False))

        await side_by_side(digest, rows, _AT_ONCE)
        keys, offsets = [row["object_key"] for row in rows], [row["object_offset"] for row in rows]
        await self._db.execute("file_md5_note", keys, offsets, [found[row["orthanc_id"]] for row in rows])
        return found

    async def located(self, access: Access, ids: Sequence[str]) -> list[Stored]:
        """The files of instances in the order of their Orthanc identifiers. Raises NotFound."""
        access.require("dicom.read")
        digests = [Resource.of(Level.INSTANCE, each).id for each in ids]
        rows = await self._db.fetch("transfer_located", access.tenant, digests)
        found = {row["orthanc_id"]: Stored(row["object_key"], row["object_offset"], row["object_size"]) for row in rows}
        if len(found) < len(set(digests)):
            raise NotFound("no such instance")
        return [found[each] for each in digests]

    async def read(self, files: Sequence[Stored], offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """`length` bytes from `offset` on of files that are put one after the other, in bounded chunks."""
        for each in files:
            size = min(each.size - offset, length)
            if size > 0:
                async for chunk in self._objects.stream(each.key, each.base + offset, size):
                    yield chunk
                length -= size
            offset = max(0, offset - each.size)

    # -- what is under way

    async def create(
        self,
        access: Access,
        role: Role,
        plan: Plan,
        compression: Compression,
        *,
        job: str | None = None,
        path: str | None = None,
    ) -> Transfer:
        """Begin a transfer, of a job of ours or of a peer that pushes.

        Raises BadRequest for buckets that do not fit the instances, TooLarge for what could never be held, Unavailable
        where there is no room now.
        """
        places = plan.places()
        if role != "sent":
            self._require_possible(plan)
        found = await self._db.fetch_value(
            "transfer_create",
            None if job is None else uuid.UUID(job),
            access.tenant,
            role,
            compression,
            plan.size,
            path,
            self._settings.transfer_bytes,
            [sum(size for _, _, size in bucket) for bucket in plan.buckets],
            [orjson.dumps(bucket).decode() for bucket in plan.buckets],
            [each.id for each in plan.members],
            [each.md5 for each in plan.members],
            [orjson.dumps(each).decode() for each in places],
        )
        if found is None:
            raise Unavailable("the transfers that are under way leave no room (transfer_bytes); try again later")
        return Transfer(str(found), compression, len(plan.members), plan.size, path)

    def _require_possible(self, plan: Plan) -> None:
        if plan.size > self._settings.transfer_bytes:
            raise TooLarge("the transfer is larger than all that may be under way (transfer_bytes)")
        largest = max((each.size for each in plan.members), default=0)
        fullest = max((sum(size for _, _, size in bucket) for bucket in plan.buckets), default=0)
        if max(largest, fullest) > self._settings.max_instance:
            raise TooLarge(f"an instance or bucket is larger than {self._settings.max_instance} bytes (max_instance)")

    async def get(self, access: Access, role: Role, name: str) -> Transfer | None:
        """A transfer of a job of ours, where it has begun."""
        row = await self._db.fetch_row("transfer_get", access.tenant, role, uuid.UUID(name))
        return None if row is None else Transfer(**dict(row) | {"id": str(row["id"])})

    async def expected(self, access: Access, name: str, number: int) -> tuple[Compression, int]:
        """How a bucket that a peer pushes comes, and how many bytes it holds. Raises NotFound."""
        access.require("dicom.write")
        row = await self._db.fetch_row("transfer_bucket", access.tenant, "received", _identifier(name), number)
        if row is None:
            raise NotFound("no such transfer, or it has no such bucket")
        return row["compression"], row["size"]

    async def put(self, access: Access, role: Role, name: str, number: int, content: Spooled) -> None:
        """What a bucket holds, durable on return; releases the spool. Raises NotFound, Conflict, Unavailable."""
        body = content.data if content.path is None else content.path
        assert body is not None
        try:
            async with self._owned.stored(access.tenant, body, content.size) as key:
                identity = (access.tenant, _identifier(name), role, number)
                done = await self._db.fetch_value("transfer_put", *identity, key, self._grace)
        finally:
            content.release()
        _require(done)
        if done == "late":
            raise Unavailable("the bucket was too slow to be stored; send it again")

    async def sent(self, transfer: Transfer, number: int) -> None:
        """Note that a bucket was sent."""
        await self._db.execute("transfer_sent", uuid.UUID(transfer.id), number)

    async def open(self, transfer: Transfer) -> AsyncIterator[list[Bucket]]:
        """Pages of the buckets that are neither sent nor come."""
        last = -1
        while rows := await self._db.fetch("transfer_open", uuid.UUID(transfer.id), last, _PAGE):
            yield [_bucket(row) for row in rows]
            last = rows[-1]["number"]

    async def done(self, transfer: Transfer) -> tuple[int, int, int]:
        """How many buckets there are, how many of them are done, and the bytes of these."""
        row = await self._db.fetch_row("transfer_done", uuid.UUID(transfer.id))
        assert row is not None
        return row["buckets"], row["done"], row["bytes"]

    async def files(self, name: str) -> AsyncIterator[list[File]]:
        """Pages of the files that the buckets of a transfer hold. Raises Unavailable where a bucket is gone."""
        last = -1
        while rows := await self._db.fetch("transfer_files", uuid.UUID(name), last, _PAGE):
            yield [_file(row) for row in rows]
            last = rows[-1]["number"]

    async def assembled(self, file: File, spool: Spool) -> Spooled:
        """A whole file. Raises BadRequest where its MD5 is not what was announced."""
        md5 = hashlib.md5(usedforsecurity=False)

        async def chunks() -> AsyncIterator[bytes]:
            for part in file.parts:
                async for chunk in self._objects.stream(*part):
                    await asyncio.to_thread(md5.update, chunk)
                    yield chunk

        spooled = await spool.collect(chunks())
        if md5.digest() != file.md5:
            spooled.release()
            raise BadRequest(f"the bytes of instance {file.name} do not have the MD5 that was announced")
        return spooled

    async def commit(self, access: Access, name: str, remote: str) -> str | None:
        """The job that stores what a peer at the address `remote` has pushed; None where everything is stored already.

        Raises NotFound, BadRequest where a bucket has not come.
        """
        access.require("dicom.write")
        content = {"transfer": str(_identifier(name)), "source": remote, "said": {"Transaction": name}}
        text = orjson.dumps(content).decode()
        row = await self._db.fetch_row("transfer_commit", access.tenant, _identifier(name), COMMIT, text)
        if row is None:
            raise NotFound("no such transfer")
        if row["missing"] is not None:
            raise BadRequest(f"bucket {row['missing']} has not come")
        return None if row["job"] is None else str(row["job"])

    async def finish(self, name: str) -> None:
        """Everything is stored: what came is not needed any more."""
        await self._db.execute("transfer_finish", uuid.UUID(name), self._grace)

    async def drop(self, access: Access, role: Role, name: str) -> None:
        """Forget a transfer and what came for it. Raises NotFound, Conflict."""
        _require(await self._db.fetch_value("transfer_drop", access.tenant, _identifier(name), role, self._grace))

    async def expire(self) -> None:
        """Forget transfers and digests that nobody goes on with. For the background process."""
        while await self._db.fetch_value("transfer_expire", _IDLE, self._grace, _BATCH) == _BATCH:
            pass
        await self._db.execute("file_md5_forget", _KEPT)


def _bucket(row: Any) -> Bucket:
    pieces = tuple((name, offset, size) for name, offset, size in orjson.loads(row["pieces"]))
    return Bucket(row["number"], row["size"], tuple(name for name, _, _ in pieces), pieces[0][1], pieces)


def _file(row: Any) -> File:
    places: list[Place] = orjson.loads(row["places"])
    if None in row["keys"]:
        raise Unavailable("a bucket of the transfer is gone")
    parts = tuple((key, offset, size) for key, (_, offset, size) in zip(row["keys"], places, strict=True))
    return File(row["name"], row["md5"], parts)


def _require(outcome: str) -> None:
    if outcome == "gone":
        raise NotFound("no such transfer, or it has no such bucket")
    if outcome == "closed":
        raise Conflict("the transfer is being stored, or is stored already")


def _identifier(name: str) -> uuid.UUID:
    try:
        return uuid.UUID(name)
    except ValueError:
        raise NotFound("no such transfer") from None
