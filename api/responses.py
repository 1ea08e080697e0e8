"""Answers as raw ASGI messages: the one place that starts a response on a hot route.

granian takes `bytes` only at full speed (any other buffer is copied item by item, thirty times slower), and it tells
nobody when the client has gone: a stream therefore watches for `http.disconnect` itself. Ending without the last body
message makes the server cut the connection, so that a client never takes a broken answer for a whole one.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from api.errors import Problem, orthanc_json, problem_json
from api.exchange import Exchange
from api.logs import log_cut
from dicomweb.negotiation import MediaRange, parse_accept
from dicomweb.qido import warning_header
from dicomweb.wado import content_range, etag_matches, parse_range, range_applies

Header = tuple[bytes, bytes]
Body = bytes | Sequence[bytes]

DICOM_JSON: Header = (b"content-type", b"application/dicom+json")
JSON: Header = (b"content-type", b"application/json")
# Versioned URLs name bytes that never change; every other URL is asked again, and answered 304 by its ETag.
CACHE_IMMUTABLE: Header = (b"cache-control", b"private, max-age=31536000, immutable")
CACHE_REVALIDATE: Header = (b"cache-control", b"private, no-cache")
# One message up to here; beyond it the pieces go out one after the other, so that nothing is held twice.
_JOIN_LIMIT = 1 << 20
# Of a body that is refused: what is more is refused by closing the connection.
_DROPPED_BYTES = 64 << 20
_DROPPED_SECONDS = 3.0
# No content-type may be guessed by a browser: the archive serves bytes that strangers wrote.
_NOSNIFF: Header = (b"x-content-type-options", b"nosniff")
_ACCEPT_RANGES: Header = (b"accept-ranges", b"bytes")
_CLOSE: Header = (b"connection", b"close")


def cache_control(version: str | None, current: str) -> Header:
    """The caching rule of an instance-level resource asked with `?v=version` whose content is `current`."""
    return CACHE_IMMUTABLE if version is not None and version == current else CACHE_REVALIDATE


def warning(root: str, text: str) -> Header:
    """A Warning header, code 299 (PS3.18 8.3.4); `text` holds no line ends."""
    return (b"warning", warning_header(root, text).encode("latin-1", "replace"))


def versioned(http: Exchange, tag: str, version: str) -> list[Header]:
    """The headers of what is one thing in each type that Accept may name, of an instance in `version`."""
    return [(b"etag", tag.encode()), (b"vary", b"Accept"), cache_control(http.query_value("v"), version)]


async def client_has(http: Exchange, headers: Sequence[Header]) -> bool:
    """Answer 304 where the client has what the ETag among `headers` names; whether that was so."""
    if not etag_matches(http.header(b"if-none-match"), _tag_of(headers)):
        return False
    await send_not_modified(http, headers)
    return True


def _tag_of(headers: Sequence[Header]) -> str:
    return next((value for name, value in headers if name == b"etag"), b"").decode()


def ranged(http: Exchange, headers: list[Header], size: int) -> tuple[int, int, int]:
    """Status, offset and length of what a GET asks of `size` bytes by Range and If-Range; adds the headers for it.

    `headers` hold the ETag. Raises RangeNotSatisfiable.
    """
    headers.append(_ACCEPT_RANGES)
    if http.method != "GET" or not range_applies(http.header(b"if-range"), _tag_of(headers)):
        return 200, 0, size
    wanted = parse_range(http.header(b"range"), size)
    if wanted is None:
        return 200, 0, size
    headers.append((b"content-range", content_range(*wanted, size).encode()))
    return 206, *wanted


def accepted(http: Exchange) -> tuple[MediaRange, ...]:
    """What Accept, and the parameter for who cannot set it, ask for (PS3.18 8.3.3.1)."""
    return parse_accept(http.header(b"accept"), http.query_value("accept"))


def accepts_gzip(header: str | None) -> bool:
    """Whether Accept-Encoding takes gzip (RFC 9110 12.5.3)."""
    if header is None:
        return False
    for item in header.lower().split(","):
        coding, _, weight = item.partition(";")
        if coding.strip() in ("gzip", "*", "x-gzip"):
            return weight.replace(" ", "").removeprefix("q=").rstrip("0.") != "" if weight else True
    return False


async def send_bytes(http: Exchange, status: int, headers: Sequence[Header], body: Body = b"") -> None:
    """Answer once with a body that is known whole.

    `bytes`, or pieces of `bytes` that are sent in order. HEAD gets the headers only.
    """
    pieces: Sequence[bytes] = (body,) if isinstance(body, bytes) else body
    size = sum(map(len, pieces))
    fields = [*headers, _NOSNIFF, *http.extra]
    if status not in (204, 304):
        fields.append((b"content-length", b"%d" % size))
    if http.ends_connection:
        await _drop_body(http)
        if http.ends_connection:
            fields.append(_CLOSE)
    http.status = status
    send = http.send
    await send({"type": "http.response.start", "status": status, "headers": fields})
    if http.method == "HEAD":
        await send({"type": "http.response.body", "body": b""})
    elif len(pieces) == 1:
        await send({"type": "http.response.body", "body": pieces[0]})
    elif size <= _JOIN_LIMIT:
        await send({"type": "http.response.body", "body": b"".join(pieces)})
    else:
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _drop_body(http: Exchange) -> None:
    """Take the rest of a body that nobody wants, within limits, unless the client waits to be asked for it (Expect).

    A client that is still sending when the connection is closed is reset, and never sees the answer (RFC 9112 9.6).
    """
    if http.header(b"expect") is not None:
        return
    left = _DROPPED_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(_DROPPED_SECONDS):
            while left > 0 and not http.body_read:
                message = await http.receive()
                if message["type"] == "http.disconnect":
                    return
                left -= len(message["body"])
                http.body_read = not message.get("more_body", False)


async def send_not_modified(http: Exchange, headers: Sequence[Header]) -> None:
    """304 with the headers (ETag, Cache-Control) that the full answer would carry."""
    await send_bytes(http, 304, headers)


async def send_stream(
    http: Exchange, status: int, headers: Sequence[Header], length: int | None, chunks: AsyncIterator[bytes]
) -> None:
    """Answer with chunks as they come; `length` is their exact total where it is known.

    The first chunk is awaited before the status goes out, so that an error up to there still becomes a proper answer.
    A later error, or a total that differs from `length`, cuts the connection.
    """
    fields = [*headers, _NOSNIFF, *http.extra]
    if length is not None:
        fields.append((b"content-length", b"%d" % length))
    if http.method == "HEAD":
        http.status = status
        await http.send({"type": "http.response.start", "status": status, "headers": fields})
        await http.send({"type": "http.response.body", "body": b""})
        return
    first = await anext(chunks, b"")
    http.status = status
    await http.send({"type": "http.response.start", "status": status, "headers": fields})
    if await _send_chunks(http, first, chunks):
        await http.send({"type": "http.response.body", "body": b""})


async def _send_chunks(http: Exchange, first: bytes, chunks: AsyncIterator[bytes]) -> bool:
    """Send until the end (True), or until the client has gone or the source fails (False)."""
    gone = asyncio.ensure_future(_disconnected(http))
    try:
        await http.send({"type": "http.response.body", "body": first, "more_body": True})
        async for chunk in chunks:
            if gone.done():
                return False
            await http.send({"type": "http.response.body", "body": chunk, "more_body": True})
    except Exception as error:  # noqa: BLE001 - the status has gone out: all that is left is to cut the connection
        log_cut(http.request_id, http.operation.path, error)
        return False
    finally:
        gone.cancel()
        closer = getattr(chunks, "aclose", None)
        if closer is not None:
            await closer()
    return True


async def _disconnected(http: Exchange) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def send_problem(http: Exchange, problem: Problem) -> None:
    """The error as a problem document, or as Orthanc's JSON on Orthanc's routes."""
    if http.operation.orthanc:
        body, kind = orthanc_json(problem, http.method, http.scope["path"]), b"application/json"
    else:
        body, kind = problem_json(problem, http.request_id), b"application/problem+json"
    headers: list[Header] = [(b"content-type", kind), (b"cache-control", b"no-store"), *problem.headers]
    if problem.warning:
        headers.append(warning(http.root_url, problem.warning))
    await send_bytes(http, problem.status, headers, body)
