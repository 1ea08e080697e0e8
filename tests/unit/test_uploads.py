"""Request bodies: pace, size, gzip and the bound on memory, without a server."""

import asyncio
import dataclasses
import gzip
import os
from typing import Any

import pytest

from api import uploads
from api.errors import HttpRefusal
from api.uploads import BodyReader, Gunzipped, MemoryBudget
from dicomweb.errors import BadRequest, TooLarge
from storage.settings import Settings


class Wire:
    """What a reader needs of an exchange: messages, each after a pause."""

    settings = Settings()

    def __init__(self, chunks: list[bytes], *, pause: float = 0, end: bool = True, length: int | None = None) -> None:
        self._chunks = chunks
        self._pause = pause
        self._end = end
        self._length = length

    def header(self, name: bytes) -> str | None:
        return None if self._length is None else str(self._length)

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(self._pause)
        if self._chunks:
            more = len(self._chunks) > 1 or not self._end
            return {"type": "http.request", "body": self._chunks.pop(0), "more_body": more}
        return {"type": "http.disconnect"}


async def read_all(wire: Wire, limit: int = 0) -> bytes:
    pieces = []
    with BodyReader(wire, limit) as reader:  # type: ignore[arg-type]
        while (chunk := await reader.read()) is not None:
            pieces.append(chunk)
    return b"".join(pieces)


async def test_whole_body() -> None:
    assert await read_all(Wire([b"a", b"", b"bc", b""])) == b"abc"
    assert await read_all(Wire([b""])) == b""


async def test_body_that_ends_early() -> None:
    with pytest.raises(BadRequest):
        await read_all(Wire([b"abc"], end=False))


async def test_limit_declared_and_counted() -> None:
    assert await read_all(Wire([b"abcd"], length=4), 4) == b"abcd"
    with pytest.raises(TooLarge):
        await read_all(Wire([b"ab", b"cde"]), 4)
    with pytest.raises(TooLarge):
        BodyReader(Wire([], length=5), 4)  # type: ignore[arg-type]


async def test_slow_body_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_WINDOW_S", 0.2)
    began = asyncio.get_running_loop().time()
    with pytest.raises(HttpRefusal) as refused:
        await read_all(Wire([b"x"] * 1000, pause=0.01))
    assert refused.value.kind[0] == "slow-body"
    assert asyncio.get_running_loop().time() - began < 2
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)  # the cancellation was used up


async def test_how_slow_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_WINDOW_S", 0.1)
    patient = Wire([b"x"] * 40, pause=0.01)
    patient.settings = dataclasses.replace(Settings(), min_body_rate=0)
    assert len(await read_all(patient)) == 40


async def test_slow_because_of_us_is_no_fault_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_WINDOW_S", 0.1)
    with BodyReader(Wire([b"x"] * 4), 0) as reader:  # type: ignore[arg-type]
        for _ in range(4):
            await reader.read()
            await asyncio.sleep(0.15)
        assert await reader.read() is None


async def test_fast_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_WINDOW_S", 0.1)
    body = [bytes(8192)] * 40
    assert len(await read_all(Wire(list(body), pause=0.01))) == 40 * 8192


async def test_real_cancellation_passes() -> None:
    task = asyncio.ensure_future(read_all(Wire([b"x"], pause=60)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("cut", [1, 7, 1000, 1 << 20])
async def test_gzip_cut_anywhere(cut: int) -> None:
    content = os.urandom(300_000) + bytes(500_000)
    packed = gzip.compress(content)
    wire = Wire([packed[i : i + cut] for i in range(0, len(packed), cut)] if cut > 1 else [packed])
    with BodyReader(wire, 0) as reader:  # type: ignore[arg-type]
        body = Gunzipped(reader, limit=10 << 20, ratio=200)
        pieces = []
        while (chunk := await body.read()) is not None:
            pieces.append(chunk)
    assert b"".join(pieces) == content


async def test_gzip_bomb_stops_early() -> None:
    wire = Wire([gzip.compress(bytes(100 << 20))])
    with BodyReader(wire, 0) as reader:  # type: ignore[arg-type]
        body = Gunzipped(reader, limit=1 << 30, ratio=20)
        sizes: list[int] = []
        with pytest.raises(TooLarge):
            await _drain(body, sizes)
    assert sum(sizes) < 4 << 20


async def _drain(body: Gunzipped, sizes: list[int]) -> None:
    while (chunk := await body.read()) is not None:
        sizes.append(len(chunk))


def test_budget_never_makes_anyone_wait() -> None:
    budget = MemoryBudget(10 << 20)
    first, second = budget.reserve(8 << 20), budget.reserve(8 << 20)
    assert first.size == 8 << 20
    assert second.size == 64 * 1024
    first.shrink(1 << 20)
    assert budget.left == (9 << 20) - 64 * 1024
    first.shrink(2 << 20)  # never grows
    assert first.size == 1 << 20
    for each in (first, second, first):
        each.release()
    assert budget.left == 10 << 20
