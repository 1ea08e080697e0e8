"""Objects in an S3 bucket (AWS, Ceph RGW, MinIO, …), the data through obstore.

Time limits: a request waits `s3_connect_timeout` for the connection and `s3_read_timeout` for each answer or piece of
it (a dead disk behind the service makes requests hang, not fail); retries with exponential, jittered pauses end, and
the caller gets Unavailable, after twice the read timeout in all. Long transfers are limited per piece, not as a whole.
"""

import asyncio
import contextlib
import os
import sys
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import obstore
from obstore.store import S3Store as Client

from dicomweb.errors import ArchiveError, CorruptObject, ObjectMissing, Unavailable
from storage.directory_files import make_directory, remove_stale, translated, unlink_quietly
from storage.object_counts import ObjectCounts, Operation
from storage.objects import STREAM_CHUNK, Chunk, ObjectInfo, Range, check_key, check_prefix, check_range, is_key
from storage.s3_admin import S3Admin
from storage.s3_config import bucket_and_prefix, client_config, client_options, credential_source, retry_config
from storage.s3_errors import already_there, beyond_end, not_supported, translate

if TYPE_CHECKING:
    from storage.settings import Settings

T = TypeVar("T")

STALE_SECONDS: Final = 86_400
PARALLEL_GETS: Final = 10  # of one call
ONE_ANSWER: Final = 16 << 20  # more than this may rightly take longer than the deadline of one request
COALESCE: Final = 256 << 10  # a gap below this costs less to transfer than one more request
STREAM_PIECE: Final = 512 << 10
UPLOADS: Final = 2  # parts of one object under way at once; a third is being filled: 48 MiB with parts of 16 MiB
UPLOAD_PIECE: Final = 1 << 20  # read from the file at a time
MAX_PARTS: Final = 10_000
PROBE_KEY: Final = "_probe"  # begins with what no key begins with
PROBE_WRITE_SECONDS: Final = 60.0  # probes read each time but write at most this often: buckets may keep every version


class S3Store:
    """The ObjectStore of one bucket and prefix."""

    def __init__(self, client: Client, admin: S3Admin, spool: Path, *, deadline: float, part_size: int) -> None:
        self.counts = ObjectCounts()
        self._client = client
        self._admin = admin
        self._spool = spool
        self._deadline = deadline
        self._part_size = part_size
        self._conditional = True
        self._probe_written = float("-inf")
        self._cleanups: set[asyncio.Task[None]] = set()
        try:
            make_directory(str(spool), "/")
            remove_stale(str(spool), STALE_SECONDS)
        except OSError as error:
            raise translated(error, "open its spool directory") from error

    @classmethod
    def from_settings(cls, settings: "Settings") -> "S3Store":
        """Build the clients; no request is made. Raises ValueError for a malformed address."""
        bucket, prefix = bucket_and_prefix(settings.objects or "")
        deadline = 2 * settings.s3_read_timeout
        client = Client(
            bucket,
            prefix=prefix or None,
            config=client_config(settings, bucket),
            client_options=client_options(settings),
            retry_config=retry_config(settings, deadline),
            credential_provider=credential_source(settings),
        )
        return cls(
            client,
            S3Admin(settings),
            settings.data.absolute() / "spool",
            deadline=deadline,
            part_size=settings.s3_multipart_size,
        )

    @property
    def spool_dir(self) -> Path:
        """A directory on the local disk; the file is uploaded from there."""
        return self._spool

    # ------------------------------------------------------------------------------------------------ writing

    async def make_names(self, keys: Sequence[str]) -> None:
        """See ObjectStore. A name costs nothing here."""

    async def put(self, key: str, chunks: Sequence[Chunk], size: int, *, named: bool = False) -> None:  # noqa: ARG002
        """See ObjectStore. One PUT; several chunks are joined first."""
        check_key(key)
        given = sum(map(len, chunks))
        if given != size:
            raise ValueError(f"{given} bytes given, {size} announced")
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        await self._to_its_end(key, self._put(key, bytes(body) if isinstance(body, bytearray) else body))
        self.counts.written += size

    async def _put(self, key: str, body: bytes | memoryview) -> None:
        """PUT with If-None-Match where the service knows it; uniqueness does not depend on it, for keys are random."""
        if self._conditional:
            try:
                put = obstore.put_async(self._client, key, body, mode="create", use_multipart=False)
                await self._within("write", put)
            except (Unavailable, ObjectMissing) as error:
                if already_there(error.__cause__):
                    await self._accept_own_retry(key, body)
                    return
                if not not_supported(error.__cause__):
                    raise
                self._conditional = False
            else:
                return
        await self._within("write", obstore.put_async(self._client, key, body, use_multipart=False))

    async def _accept_own_retry(self, key: str, body: bytes | memoryview) -> None:
        """The key is taken: by our own request whose answer was lost (the bytes are ours), or by another object."""
        if await self.size(key) == len(body) and await self.get(key) == body:
            return
        raise Unavailable("the object store has an object under that key already; it was left as it is")

    async def put_file(self, key: str, path: Path, size: int) -> None:
        """See ObjectStore. A multipart upload above `s3_multipart_size`; three parts are in memory at most."""
        check_key(key)
        held = (await asyncio.to_thread(path.stat)).st_size
        if held != size:
            raise ValueError(f"the file has {held} bytes, {size} announced")
        if size <= self._part_size:
            await self.put(key, [await asyncio.to_thread(path.read_bytes)], size)
        else:
            if await self._exists(key):
                raise Unavailable("the object store has an object under that key already; it was left as it is")
            try:
                await self._upload(key, path, size)
            except BaseException:  # a cancelled upload too must not leave paid parts behind
                self._clean_up(key)
                raise
        unlink_quietly(str(path))

    async def _upload(self, key: str, path: Path, size: int) -> None:
        """CompleteMultipartUpload has no condition to rely on and may answer 200 with an error: the size is asked."""
        part = max(self._part_size, -(-size // MAX_PARTS))
        writer = obstore.open_writer_async(self._client, key, buffer_size=part, max_concurrency=UPLOADS)
        fd = await asyncio.to_thread(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with self.counts.request("write"):
                for offset in range(0, size, UPLOAD_PIECE):
                    data = await asyncio.to_thread(os.pread, fd, min(UPLOAD_PIECE, size - offset), offset)
                    await self._limited(writer.write(data))
                await self._to_its_end(key, self._limited(writer.close()))
        finally:
            os.close(fd)
        stored = await self.size(key)
        self.counts.written += stored
        if stored != size:
            raise Unavailable(f"the object store kept {stored} of {size} bytes")

    async def _exists(self, key: str) -> bool:
        try:
            await self.size(key)
        except ObjectMissing:
            return False
        return True

    async def _to_its_end(self, key: str, request: Coroutine[object, object, None]) -> None:
        """Await a request that makes an object; it goes on when the caller is cancelled, and the object goes after it.

        A service that has the whole body makes the object even where the connection is gone, and maybe only after it
        has answered a DELETE that was sent behind.
        """
        task = asyncio.create_task(request)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            self._clean_up(key, task)
            raise

    def _clean_up(self, key: str, last: "asyncio.Task[None] | None" = None) -> None:
        """After a cancelled or failed upload, in the background, when its last request has ended."""
        task = asyncio.create_task(self._remove_remains(key, last))
        self._cleanups.add(task)
        task.add_done_callback(self._cleanups.discard)

    async def _remove_remains(self, key: str, last: "asyncio.Task[None] | None") -> None:
        """Nobody will ever commit this key. What fails is found later: its intent or the bucket's lifecycle rule."""
        with contextlib.suppress(ArchiveError):
            if last is not None:
                await last
        with contextlib.suppress(Unavailable):
            await asyncio.to_thread(self._admin.abort_uploads, key)
            await self.delete(key)

    async def delete(self, key: str) -> None:
        """See ObjectStore. In a bucket with versions the older version stays until a lifecycle rule removes it."""
        with contextlib.suppress(ObjectMissing):
            await self._within("delete", obstore.delete_async(self._client, check_key(key)))

    # ------------------------------------------------------------------------------------------------ reading

    async def get(self, key: str) -> bytes:
        """See ObjectStore."""
        found = await self._within("read", self._get(check_key(key)))
        self.counts.read += len(found)
        return found

    async def _get(self, key: str) -> bytes:
        result = await obstore.get_async(self._client, key)
        return (await result.bytes_async()).to_bytes()

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See ObjectStore. One GET with a Range; a long one has its deadline per piece."""
        check_key(key)
        check_range(offset, length)
        if length == 0:
            await self.size(key)
            return b""
        if length > ONE_ANSWER:
            return b"".join([chunk async for chunk in self.stream(key, offset, length)])
        found = await self._within("read", obstore.get_range_async(self._client, key, start=offset, length=length))
        self.counts.read += len(found)
        return _checked(found.to_bytes(), length, offset)

    def get_cached(self, key: str, offset: int, length: int) -> bytes | None:  # noqa: ARG002
        """See ObjectStore. Never."""
        return None

    async def get_ranges(self, key: str, ranges: Sequence[Range]) -> list[bytes]:
        """See ObjectStore. Ranges less than 256 KiB apart share a GET; up to ten GETs run at once."""
        if len(ranges) == 1:
            return [await self.get_range(key, *ranges[0])]
        spans = _merged(ranges)
        limit = asyncio.Semaphore(PARALLEL_GETS)

        async def fetch(start: int, end: int) -> memoryview:
            async with limit:
                return memoryview(await self.get_range(key, start, end - start))

        # obstore's own get_ranges is not used: it panics when a range begins behind the object's end (0.12.1).
        tasks = [asyncio.create_task(fetch(start, end)) for start, end in spans]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return [_cut(spans, found, offset, length) for offset, length in ranges]

    async def stream(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        """See ObjectStore. One GET; each piece has the whole deadline, so that a slow reader is not punished."""
        check_key(key)
        check_range(offset, length)
        if length == 0:
            await self.size(key)
            return
        get = obstore.get_async(self._client, key, options={"range": (offset, offset + length)})
        result = await self._within("read", get)
        have = 0
        pieces = result.stream(min_chunk_size=STREAM_PIECE).__aiter__()
        while True:
            try:
                with self.counts.request("read", goes_on=True):
                    piece = await self._limited(anext(pieces))
            except StopAsyncIteration:
                break
            view = bytes(piece)
            have += len(view)
            self.counts.read += len(view)
            if len(view) <= STREAM_CHUNK:
                yield view
            else:
                for start in range(0, len(view), STREAM_CHUNK):
                    yield view[start : start + STREAM_CHUNK]
        if have != length:
            raise CorruptObject(f"the object ends {length - have} bytes before the end of bytes {offset}+{length}")

    async def size(self, key: str) -> int:
        """See ObjectStore. One HEAD; after a 404 a GET too, which tells a missing bucket from a missing object."""
        try:
            return (await self._within("size", obstore.head_async(self._client, check_key(key))))["size"]
        except ObjectMissing:
            return (await self._within("size", obstore.get_async(self._client, key))).meta["size"]

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """See ObjectStore. A thousand objects per request; foreign objects whose names are no keys are passed over."""
        pages = obstore.list(self._client, check_prefix(prefix).rstrip("/") or None, chunk_size=1000)
        while True:
            try:
                page = await self._within("list", anext(pages))
            except StopAsyncIteration:
                return
            for found in page:
                if is_key(found["path"]):
                    yield ObjectInfo(found["path"], found["size"], found["last_modified"])

    def local_path(self, key: str) -> Path | None:
        """See ObjectStore: there is no file."""
        check_key(key)
        return None

    # ----------------------------------------------------------------------------------------------- plumbing

    async def check(self) -> None:
        """See ObjectStore. Reads each time, writes at most once a minute."""
        if time.monotonic() - self._probe_written > PROBE_WRITE_SECONDS:
            await self._within("probe", obstore.put_async(self._client, PROBE_KEY, b"probe", use_multipart=False))
            self._probe_written = time.monotonic()
        try:
            found = await self._within("probe", self._get(PROBE_KEY))
        except ArchiveError as error:
            self._probe_written = float("-inf")  # after a failure the next success must be a whole one
            raise Unavailable(f"the object store failed a probe: {error.message}") from error
        if found != b"probe":
            raise Unavailable("the object store returns other bytes than it was given")

    async def close(self) -> None:
        """See ObjectStore."""
        if self._cleanups:
            await asyncio.wait(self._cleanups, timeout=self._deadline)
        self._admin.close()

    async def _within(self, operation: Operation, call: Awaitable[T]) -> T:
        """One request, which is counted. Raises as `_limited`."""
        with self.counts.request(operation):
            return await self._limited(call)

    async def _limited(self, call: Awaitable[T]) -> T:
        """Await one call under the deadline; the client's errors become ours."""
        try:
            async with asyncio.timeout(self._deadline):
                return await call
        except TimeoutError as error:
            raise Unavailable(f"the object store did not answer within {self._deadline:.3g} s") from error
        except StopAsyncIteration:
            raise
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            if beyond_end(error):
                raise CorruptObject("the object ends before the bytes that were asked for") from error
            raise translate(error) from error


def _checked(data: bytes, length: int, offset: int) -> bytes:
    if len(data) != length:
        raise CorruptObject(f"the object ends {length - len(data)} bytes before the end of bytes {offset}+{length}")
    return data


def _merged(ranges: Sequence[Range]) -> Sequence[tuple[int, int]]:
    """Ascending (start, end) spans that cover the ranges; gaps below COALESCE are fetched along."""
    spans: list[tuple[int, int]] = []
    for offset, length in sorted(ranges):
        check_range(offset, length)
        if spans and offset - spans[-1][1] < COALESCE:
            spans[-1] = (spans[-1][0], max(spans[-1][1], offset + length))
        else:
            spans.append((offset, offset + length))
    return spans


def _cut(spans: Sequence[tuple[int, int]], found: Sequence[memoryview], offset: int, length: int) -> bytes:
    """The bytes of one range out of the span that holds it."""
    index = bisect_right(spans, (offset, sys.maxsize)) - 1
    start = offset - spans[index][0]
    return bytes(found[index][start : start + length])
