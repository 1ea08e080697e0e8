"""Sending what the spool holds to the archive by STOW-RS (PS3.18 10.5): in batches, in parallel, again and again.

Three kinds of failure, three answers to them:

* the archive cannot be reached, is overloaded or lets nobody in: the batch goes back to the head of the queue, one
  worker asks again with longer and longer pauses and smaller batches, the others wait; this never ends by itself;
* the archive refuses one instance for what it is: it is set aside with the reason, and the others go on;
* something is wrong with a batch, or with an instance in a way that may pass: each instance is sent alone, later and
  later. A failure counts only when others got through since the last one: no outage makes an instance bad.
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias
from uuid import uuid4

from dicomweb.errors import BadDicom
from dicomweb.meta import read_file_meta
from dicomweb.multipart import Writer, content_length
from dicomweb.store_answer import Failure, content_digest, read_answer
from dimse_bridge.gateway.client import Answer, Client, Unreachable
from dimse_bridge.gateway.compare import is_stored
from dimse_bridge.gateway.disk import Waiting
from dimse_bridge.gateway.spool import GatewaySpool
from dimse_bridge.gateway.tally import Tally
from dimse_bridge.logs import log_crash, log_event
from storage.settings import Settings

_CHUNK: Final = 256 << 10
_META_MAX: Final = 64 << 10
_ANSWER_MAX: Final = 8 << 20
_FIRST_PAUSE: Final = 0.5
_LONGEST_ASKED: Final = 600.0  # what a Retry-After may ask for, in seconds

_OK, _TOO_LARGE = 200, 413
_DONE: Final = frozenset((200, 202, 409))
# Something is wrong with what the request holds, but who knows with which instance.
_CONTENT: Final = frozenset((400, 411, 413, 414, 415, 422, 431, 500, 501))
# Processing failure, no reason given, and "another request is storing it" (45071, Azure's archive).
_MAY_PASS: Final = frozenset((0x0110, 0, 45071))
# Duplicate SOP instance, and what Azure's archive says instead.
_THERE: Final = frozenset((0x0111, 45070))


class Damaged(Exception):
    """The bytes on our disk are not those that were received."""

    def __init__(self, item: Waiting) -> None:
        super().__init__()
        self.item = item


class Unsendable(Exception):
    """An instance must not leave; the message says why."""


@dataclass(frozen=True, slots=True)
class Content:
    """What is sent for an instance: a file, its length and digest, and the SOP Instance UID that an answer has."""

    path: Path
    size: int
    sha256: bytes
    uid: str


Prepare: TypeAlias = Callable[[Waiting, Path], Content]
"""Makes what is sent out of the file that was received; blocks. Raises FileNotFoundError, BadDicom, Unsendable."""


@dataclass(frozen=True, slots=True)
class _Part:
    item: Waiting
    content: Content


@dataclass(frozen=True, slots=True)
class _Refused:
    """Why an instance was not stored; `final`: sending it again is no use."""

    why: str
    final: bool
    status: int
    failure: Failure | None = None

    @property
    def is_there(self) -> bool:
        """Whether the archive says that it has an instance of that UID already."""
        return self.failure is not None and self.failure.reason in _THERE


class Forwarder:
    """Empties a spool into an archive."""

    def __init__(
        self,
        spool: GatewaySpool,
        client: Client,
        settings: Settings,
        tally: Tally,
        prepare: Prepare | None = None,
    ) -> None:
        """`prepare` may change what is sent; its files are removed when they were sent, or were not."""
        self._spool = spool
        self._prepare = prepare or as_received
        self._temporary = prepare is not None
        self._client = client
        self._tally = tally
        self._most_files, self._most_bytes = settings.gateway_batch_files, settings.gateway_batch_bytes
        self._files = self._most_files  # of one batch, for now
        self._longest, self._tries = settings.gateway_retry_max, settings.gateway_tries
        self._workers = settings.gateway_parallel
        self._reachable = asyncio.Event()
        self._reachable.set()

    @property
    def reachable(self) -> bool:
        """Whether the last request was answered."""
        return self._reachable.is_set()

    async def run(self) -> None:
        """Forward until cancelled; what is on its way then is sent again at the next start."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            await self._reachable.wait()
            batch = await self._spool.take(self._files, self._most_bytes)
            if not self._reachable.is_set():
                self._spool.give_back(batch)
                continue
            failure = await self._deliver(batch)
            if failure is not None and self._reachable.is_set():
                await self._recover(failure)

    async def _recover(self, failure: Unreachable) -> None:
        """Alone, ask until the archive answers."""
        self._reachable.clear()
        log_event("archive-unreachable", reason=failure.why)
        attempt = 0
        now: Unreachable | None = failure
        while now is not None:
            await asyncio.sleep(max(self._pause(attempt), min(now.after, _LONGEST_ASKED)))
            attempt += 1
            now = await self._deliver(await self._spool.take(self._files, self._most_bytes))
        log_event("archive-reached", level=logging.INFO)
        self._reachable.set()

    def _pause(self, attempt: int) -> float:
        """Exponential with jitter, in seconds."""
        longest = min(self._longest, _FIRST_PAUSE * 2 ** min(attempt, 20))
        return random.uniform(longest / 2, longest)

    async def _deliver(self, batch: Sequence[Waiting]) -> Unreachable | None:
        """Send once, and settle every instance; what was wrong where the archive was not reached."""
        try:
            await self._attempt(batch)
        except Unreachable as failure:
            self._tally.failed(failure.why)
            self._files = max(1, self._files // 2)
            if len(batch) == 1:  # others may fare better, as one of them is asked with next
                batch[0].missed += 1
                self._spool.put_off(batch[0], 2 * self._pause(batch[0].missed))
            return failure
        except Exception as error:  # noqa: BLE001 - no instance may stop the others
            log_crash("forwarding-failed", error)
            self._tally.failed(f"internal error ({type(error).__name__})")
            for item in batch:
                self._spool.put_off(item, self._longest)
        finally:
            self._spool.give_back(batch)
        return None

    async def _attempt(self, batch: Sequence[Waiting]) -> None:
        parts: list[_Part] = []
        try:
            await self._collect(batch, parts)
            if parts:
                await self._settle(parts, await self._send(parts))
                self._files = min(self._most_files, self._files * 2)
        except Damaged as damage:
            await self._bury(damage.item, "the bytes on the gateway's disk are not those that were received")
        finally:
            if self._temporary:
                for part in parts:
                    part.content.path.unlink(missing_ok=True)

    # -- a request

    async def _collect(self, batch: Sequence[Waiting], parts: list[_Part]) -> None:
        """What is to be sent; one of two with the same SOP Instance UID waits, so that the answer is clear."""
        for item in batch:
            try:
                content = await asyncio.to_thread(self._prepare, item, self._spool.path(item))
            except FileNotFoundError:
                log_event("instance-gone", reason="somebody removed its file")
                await self._spool.done([item])
            except BadDicom:
                raise Damaged(item) from None
            except Unsendable as reason:
                await self._bury(item, str(reason))
            else:
                if all(part.content.uid != content.uid for part in parts):
                    parts.append(_Part(item, content))
                elif self._temporary:
                    content.path.unlink()

    async def _send(self, parts: Sequence[_Part]) -> Answer:
        """One request. Raises Unreachable, and Damaged before the end of a part whose file is not what was received."""
        boundary = uuid4().hex
        headers = [_part_headers(part) for part in parts]
        size = content_length(boundary, [(h, part.content.size) for h, part in zip(headers, parts, strict=True)])
        given = {"content-type": Writer(boundary).content_type("application/dicom"), "accept": "application/dicom+json"}
        body = _joined(_body(boundary, parts))
        answer = await self._client.post("studies", body, size, given, max_answer=_ANSWER_MAX)
        if answer.status not in _DONE and answer.status not in _CONTENT:
            asked = answer.headers.get("retry-after", "")
            seconds = float(asked) if asked.isascii() and asked.isdigit() else 0.0
            raise Unreachable(f"the archive answered {answer.status}", seconds)
        return answer

    # -- outcomes

    async def _settle(self, parts: Sequence[_Part], answer: Answer) -> None:
        if answer.status in _CONTENT and len(parts) > 1:
            self._tally.failed(f"the archive answered {answer.status} to a request of {len(parts)}")
            for part in parts:
                self._spool.put_off(part.item, 0.0)
            return
        found = _outcomes(parts, answer)
        stored = [part.item for part, refused in zip(parts, found, strict=True) if refused is None]
        if stored:
            await self._done(stored)
        for part, refused in zip(parts, found, strict=True):
            if refused is None:
                continue
            if refused.is_there and await is_stored(self._client, part.content.path, part.content.size):
                await self._done([part.item])
            else:
                await self._refused(part.item, refused)

    async def _done(self, items: Sequence[Waiting]) -> None:
        await self._spool.done(items)
        self._tally.sent(len(items), sum(item.size for item in items))

    async def _refused(self, item: Waiting, refused: _Refused) -> None:
        if item.seen != self._tally.sent_files:
            item.seen, item.tries = self._tally.sent_files, item.tries + 1
        if refused.final or item.tries >= self._tries:
            await self._bury(item, refused.why, refused.status, refused.failure)
        else:
            self._tally.failed(refused.why)
            self._spool.put_off(item, self._pause(item.tries))

    async def _bury(self, item: Waiting, why: str, status: int = 0, failure: Failure | None = None) -> None:
        note: dict[str, object] = {"why": why, "tries": item.tries, "at": datetime.now(UTC).isoformat()}
        if status:
            note["http_status"] = status
        if failure is not None:
            note |= {"failure_reason": f"{failure.reason:04X}", "error_comment": failure.comment}
        await self._spool.reject(item, note)
        self._tally.rejected(why)
        log_event("instance-set-aside", reason=why)


def _outcomes(parts: Sequence[_Part], answer: Answer) -> list[_Refused | None]:
    """Of each instance: None where the archive has it, or why not."""
    if answer.status in _CONTENT:
        why = f"the archive answered {answer.status}"
        return [_Refused(why, final=answer.status == _TOO_LARGE, status=answer.status) for _ in parts]
    said = read_answer(answer.body)

    def outcome(part: _Part) -> _Refused | None:
        if (failure := said.failed.get(part.content.uid)) is not None:
            why = f"the archive refused it: failure reason {failure.reason:04X}"
            return _Refused(why, final=not _may_pass(failure.reason), status=answer.status, failure=failure)
        if part.content.uid in said.stored:
            held = said.stored[part.content.uid]
            if held is None or held == part.content.sha256:
                return None
            return _Refused("the archive holds other bytes under its SOP Instance UID", True, answer.status)
        if said.silent and answer.status == _OK:
            return None
        return _Refused("the archive's answer does not mention it", False, answer.status)

    return [outcome(part) for part in parts]


def _may_pass(reason: int) -> bool:
    """Whether an instance that failed for this reason may be stored later (PS3.18 table I.2-2)."""
    return reason in _MAY_PASS or 0xA700 <= reason <= 0xA7FF


def as_received(item: Waiting, path: Path) -> Content:
    """The file as it is."""
    with path.open("rb") as file:
        meta = read_file_meta(file.read(_META_MAX))
    return Content(path, item.size, item.sha256, meta.sop_uid)


def _part_headers(part: _Part) -> dict[str, str]:
    return {"Content-Type": "application/dicom", "Content-Digest": content_digest(part.content.sha256)}


async def _body(boundary: str, parts: Sequence[_Part]) -> AsyncIterator[bytes]:
    writer = Writer(boundary)
    for part in parts:
        yield writer.part_head(_part_headers(part))
        async for chunk in _verified(part):
            yield chunk
    yield writer.tail()


async def _verified(part: _Part) -> AsyncIterator[bytes]:
    """The bytes of the file; the last of them only when all are known to be those that were received.

    A part whose end does not come is not stored by anybody.
    """
    digest, left, held = hashlib.sha256(), part.content.size, b""

    def read() -> bytes:
        chunk = file.read(_CHUNK)
        digest.update(chunk)
        return chunk

    file = await asyncio.to_thread(part.content.path.open, "rb", 0)
    try:
        while chunk := await asyncio.to_thread(read):
            left -= len(chunk)
            if left < 0:
                break
            if held:
                yield held
            held = chunk
        if left or digest.digest() != part.content.sha256:
            raise Damaged(part.item)
        yield held
    finally:
        file.close()


async def _joined(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of a good size, so that small files do not become small packets."""
    waiting: list[bytes] = []
    size = 0
    async for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _CHUNK:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)
