"""Request bodies on their way in.

Pace and size limits, and a bound on what all uploads of this process hold in memory.
"""

import asyncio
import zlib
from typing import Protocol, Self

from api.errors import SLOW_BODY, HttpRefusal
from api.exchange import Exchange
from dicomweb.errors import BadRequest, TooLarge, UnsupportedMediaType
from dicomweb.multipart import Limits
from storage.spool import Spool, Spooled

# A body slower than `min_body_rate` over a whole window is refused: a handful of trickling clients must not hold the
# server's memory.
_WINDOW_S = 30.0
# What an upload may hold in memory once the budget is spent; the rest of it goes to disk.
_SMALL = 64 * 1024
_INFLATE_STEP = 1 << 18


class Body(Protocol):
    """Chunks of a request body: `read` gives the next one, never empty, or None at its proper end."""

    async def read(self) -> bytes | None:
        """The next bytes, or None."""


class BodyReader:
    """The body as it arrives. Use it as a context manager: it watches the pace while it is open.

    `read` raises TooLarge above the limit (0: none), BadRequest when the client leaves early, 408 when it is too slow.
    """

    __slots__ = (
        "_enough",
        "_finished",
        "_http",
        "_limit",
        "_loop",
        "_receive",
        "_seen",
        "_slow",
        "_task",
        "_timer",
        "_too_large",
        "_wait_from",
        "_waited",
        "_window",
        "size",
    )

    def __init__(self, http: Exchange, limit: int, setting: str = "") -> None:
        """`setting`: the name of the one that says the limit, for who meets it."""
        self._http = http
        self._receive = http.receive
        self._limit = limit
        self._too_large = f"the request body is larger than {limit} bytes" + (f" ({setting})" if setting else "")
        self._enough = http.settings.min_body_rate * _WINDOW_S
        self.size = 0
        self._finished = False
        self._slow = False
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seen = 0
        self._window = 0.0
        self._waited = 0.0
        self._wait_from: float | None = None
        declared = http.header(b"content-length")
        if limit and declared is not None and declared.isdigit() and int(declared) > limit:
            raise TooLarge(self._too_large)

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._timer = self._loop.call_later(_WINDOW_S, self._check)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def read(self) -> bytes | None:
        """The next bytes, or None at the end of a complete body."""
        while not self._finished:
            self._wait_from = self._loop.time()
            try:
                message = await self._receive()
            except asyncio.CancelledError:
                if self._slow and self._task is not None:
                    self._task.uncancel()
                    raise HttpRefusal(SLOW_BODY, "the request body arrives too slowly") from None
                raise
            self._waited += self._loop.time() - self._wait_from
            self._wait_from = None
            if message["type"] == "http.disconnect":
                raise BadRequest("the request body ended early")
            self._finished = self._http.body_read = not message.get("more_body", False)
            chunk: bytes = message["body"]
            if chunk:
                self.size += len(chunk)
                if self._limit and self.size > self._limit:
                    raise TooLarge(self._too_large)
                return chunk
        return None

    def _check(self) -> None:
        """Once per window: too few bytes although we did nothing but wait for them means a slow client."""
        now = self._loop.time()
        waited = self._waited + (now - self._wait_from if self._wait_from is not None else 0.0)
        waiting = self._wait_from is not None
        if waiting and waited > 0.9 * _WINDOW_S and self.size - self._seen < self._enough and self._task is not None:
            self._slow = True
            self._task.cancel()
            return
        self._seen, self._waited = self.size, 0.0
        if waiting:
            self._wait_from = now
        self._timer = self._loop.call_later(_WINDOW_S, self._check)


class Gunzipped:
    """A gzip body, inflated on the way; TooLarge beyond `limit` bytes or `ratio` times the compressed size."""

    def __init__(self, source: BodyReader, *, limit: int, ratio: int) -> None:
        self._source = source
        self._limit = limit
        self._ratio = ratio
        self._inflate = zlib.decompressobj(wbits=31)
        self._rest = b""
        self._size = 0

    async def read(self) -> bytes | None:
        """The next inflated bytes, or None at the end; BadRequest when the stream is damaged or cut."""
        while True:
            if not self._rest:
                chunk = await self._source.read()
                if chunk is None:
                    if not self._inflate.eof:
                        raise BadRequest("the gzip body is incomplete")
                    return None
                if self._inflate.eof:
                    raise BadRequest("bytes follow the gzip body")
                self._rest = chunk
            try:
                inflated = self._inflate.decompress(self._rest, _INFLATE_STEP)
            except zlib.error:
                raise BadRequest("the body is not valid gzip") from None
            self._rest = self._inflate.unconsumed_tail
            if self._inflate.unused_data:
                raise BadRequest("bytes follow the gzip body")
            self._size += len(inflated)
            if self._size > max(self._limit, 0) or self._size > self._ratio * max(self._source.size, _SMALL):
                raise TooLarge("the inflated body exceeds max_instance, or max_inflate_ratio times what was sent")
            if inflated:
                return inflated


def refuse_encoding(http: Exchange) -> None:
    """UnsupportedMediaType for a body with a Content-Encoding: nobody sends one to a Store transaction."""
    encoding = (http.header(b"content-encoding") or "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaType("Content-Encoding is not supported here", attribute="Content-Encoding")


def part_limits(http: Exchange) -> Limits:
    """What a multipart body may hold."""
    settings = http.settings
    return Limits(settings.max_parts, settings.max_part_headers, settings.max_part_header_bytes)


async def whole_body(http: Exchange, limit: int, setting: str = "") -> bytes:
    """A small body at once; `setting` says the limit. Raises as `BodyReader` and `refuse_encoding`."""
    refuse_encoding(http)
    chunks = []
    with BodyReader(http, limit, setting) as body:
        while (chunk := await body.read()) is not None:
            chunks.append(chunk)
    return b"".join(chunks)


class MemoryBudget:
    """Bytes of uploads in memory, over all requests of this process; uploads beyond it go to disk instead of waiting.

    Waiting would let a few slow clients stop all others, and lets readers wait for each other.
    """

    def __init__(self, total: int) -> None:
        self._left = total

    def reserve(self, wanted: int) -> "Reservation":
        """As much of `wanted` as is left, or a small amount that is always granted."""
        return Reservation(self, wanted if wanted <= self._left else min(wanted, _SMALL))

    def take(self, size: int) -> None:
        """Count `size` more bytes (negative: fewer) as held."""
        self._left -= size

    @property
    def left(self) -> int:
        """Bytes not yet reserved; below zero by the small amounts that are always granted."""
        return self._left


class Reservation:
    """Memory that one upload may hold; `shrink` to what it really holds, `release` when it is gone."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: MemoryBudget, size: int) -> None:
        self._budget = budget
        self.size = size
        budget.take(size)

    def shrink(self, size: int) -> None:
        """Give back what is above `size`."""
        if size < self.size:
            self._budget.take(size - self.size)
            self.size = size

    def release(self) -> None:
        """Give everything back; may be called again."""
        self.shrink(0)


class Upload:
    """One instance on its way into a spool, with its memory reserved."""

    __slots__ = ("digest", "memory", "spool")

    def __init__(
        self, http: Exchange, declared: str | None = None, digest: bytes | None = None, *, raw: bool = False
    ) -> None:
        """`declared` is the Content-Length of a body that is the instance itself; `digest` the SHA-256 of its bytes.

        `raw`: what is uploaded is no instance, but any bytes.
        """
        settings = http.settings
        self.digest = digest
        wanted = settings.spool_memory
        if declared is not None and declared.isdigit():
            wanted = min(wanted, int(declared) + 1)  # the spool goes to disk when the limit is reached
        self.memory = http.services.uploads.reserve(wanted)
        self.spool = Spool(
            http.archive.objects.spool_dir, memory_limit=self.memory.size, max_size=settings.max_instance, raw=raw
        )

    async def finish(self) -> Spooled:
        """The complete instance. `memory` stays reserved for what of it is in memory, until it is released."""
        try:
            spooled = await self.spool.finish()
        except BaseException:
            self.drop()
            raise
        self.memory.shrink(spooled.size if spooled.data is not None else 0)
        if self.digest not in (None, spooled.sha256) and not self.spool.preamble_added:
            spooled.release()
            self.memory.release()
            raise BadRequest("the bytes that arrived are not those of the Content-Digest", attribute="Content-Digest")
        return spooled

    def drop(self) -> None:
        """Forget the bytes."""
        self.spool.discard()
        self.memory.release()


async def received(http: Exchange) -> Upload:
    """A body that is one file, whatever its type. Raises as `BodyReader`, and TooLarge."""
    with BodyReader(http, http.settings.max_instance, "max_instance") as body:
        return await collected(http, body, http.header(b"content-length"))


async def collected(http: Exchange, body: Body, length: str | None = None) -> Upload:
    """All of a body, as one file; `length` is what it announced. Raises as the body, and TooLarge."""
    entry = Upload(http, length)
    try:
        while (chunk := await body.read()) is not None:
            await entry.spool.write(chunk)
    except BaseException:
        entry.drop()
        raise
    return entry
