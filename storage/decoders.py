"""The pool of sandboxed decoder processes: no stored code stream is opened anywhere else.

A decoder that dies or takes too long costs one frame its answer (BadPixels), and is replaced. Decoders are started when
they are first needed.
"""

import asyncio
import mmap
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from dicomweb.errors import BadPixels, Unavailable
from dicomweb.pixels.codestream import check_stream
from dicomweb.pixels.image import ImagePixel, Pixels
from dicomweb.pixels.syntaxes import JPEG_BASELINE, JPEG_XL_RECOMPRESSION, SYNTAXES
from storage.settings import Settings

T = TypeVar("T")
Action = Literal["decode", "reduce", "recompress", "restore", "png"]
# `refused` by its header before a decoder saw it, `failed` by the decoder's own judgement; `busy`: none became free.
Outcome = Literal["decoded", "refused", "failed", "crashed", "timed out", "busy"]

_PAGE: Final = mmap.PAGESIZE
# A shared memory that a large frame made longer goes back to this.
_KEEP: Final = 16 << 20
_SLACK: Final = 20  # seconds of waiting, beside the processor time that a frame may take
_WAIT: Final = 60.0  # seconds for a free decoder
_LINE: Final = 1 << 16
# What Python needs to find the program. Passwords and keys of the archive stay outside.
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
# Of a frame that has the machine to itself; more gain little.
_THREADS: Final = 4


class DecoderCounters:
    """Totals of this process, read by the metrics: processes started, and frames by codec and outcome."""

    def __init__(self) -> None:
        self.starts = 0
        self.frames: Counter[tuple[str, Outcome]] = Counter()

    def count(self, syntax: str, outcome: Outcome) -> None:
        """One frame whose code stream is in `syntax`, or a picture of the kind that it names."""
        self.frames[SYNTAXES[syntax].family if syntax in SYNTAXES else syntax, outcome] += 1


@dataclass(frozen=True, slots=True)
class _Job:
    action: Action
    syntax: str
    data: bytes
    room: int
    image: Mapping[str, Any]
    threads: int = 1
    factor: int = 1


class _Decoder:
    """One process and the memory that is shared with it."""

    def __init__(self, memory: int, seconds: int, counters: DecoderCounters) -> None:
        self._counters = counters
        self._memory = memory
        self._seconds = seconds
        self._process: asyncio.subprocess.Process | None = None
        self._fd = -1
        self._map: mmap.mmap | None = None

    async def run(self, job: _Job, take: Callable[[mmap.mmap, int, dict[str, Any]], T]) -> T:
        """The answer to one job; `take` copies it out of the shared memory. Raises BadPixels."""
        if self._process is not None:
            try:
                return await self._run(job, take)
            except _TooSlow:
                raise
            except _Died:
                pass  # perhaps it had ended before, while it was idle: the frame has another try in a fresh process
        await self._start()
        return await self._run(job, take)

    async def _run(self, job: _Job, take: Callable[[mmap.mmap, int, dict[str, Any]], T]) -> T:
        out = -(-len(job.data) // _PAGE) * _PAGE
        shared = self._sized(out + -(-job.room // _PAGE) * _PAGE)
        shared[: len(job.data)] = job.data
        request = {
            "action": job.action,
            "syntax": job.syntax,
            "length": len(job.data),
            "out": out,
            "size": len(shared),
            "image": job.image,
            "threads": job.threads,
            "factor": job.factor,
        }
        try:
            async with asyncio.timeout(self._seconds + _SLACK):
                answer = await self._ask(request)
        except BaseException as error:
            spent = isinstance(error, EOFError) and await self._spent()
            self.kill()
            if spent:
                raise _TooSlow from error
            # RuntimeError is what the event loop says of a pipe that is closed.
            if isinstance(error, TimeoutError | EOFError | OSError | RuntimeError):
                raise (_TooSlow if isinstance(error, TimeoutError) else _Died) from error
            raise
        try:
            if "error" in answer:
                raise BadPixels(answer["error"], attribute=answer["attribute"])
            return take(shared, out, answer)
        finally:
            if answer["last"]:
                self.kill()

    async def _start(self) -> None:
        try:
            await self._spawn()
        except OSError as error:
            self.kill()
            raise Unavailable("no process for decoding can be started; ask again") from error

    async def _spawn(self) -> None:
        self._counters.starts += 1
        self._fd = os.memfd_create("anor-decoder")
        os.ftruncate(self._fd, _PAGE)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m"),
            "storage.decoder_process",
            *(str(self._fd), str(self._memory), str(self._seconds)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            pass_fds=(self._fd,),
            # OpenBLAS, which nothing here uses, would start a thread for each core.
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | {"OPENBLAS_NUM_THREADS": "1"},
            limit=_LINE,
        )

    def _sized(self, need: int) -> mmap.mmap:
        held = len(self._map) if self._map is not None else 0
        if self._map is None or need > held or (held > _KEEP and need <= _KEEP):
            size = max(need, min(_KEEP, 1 << 20))
            if self._map is not None:
                self._map.close()
            os.ftruncate(self._fd, size)
            self._map = mmap.mmap(self._fd, size)
        return self._map

    async def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(orjson.dumps(request) + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        answer: dict[str, Any] = orjson.loads(line)
        return answer

    async def _spent(self) -> bool:
        """Whether the process was ended for the processor time that it took: a second try would take as much."""
        assert self._process is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                return await self._process.wait() == -signal.SIGXCPU
        return False

    def kill(self) -> None:
        """End the process; the next job starts another."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        self._process = None
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Died(Exception):
    """The process ended instead of answering."""


class _TooSlow(_Died):
    """The process did not answer in time."""


class DecoderPool:
    """Decodes frames, `size` at a time."""

    def __init__(self, settings: Settings) -> None:
        self.size = settings.decoders_per_worker
        self.counters = DecoderCounters()
        self._threads = min(_THREADS, len(os.sched_getaffinity(0)))
        self._asked = 0
        self._idle: asyncio.Queue[_Decoder] = asyncio.Queue()
        for _ in range(self.size):
            self._idle.put_nowait(_Decoder(settings.decoder_memory, settings.decoder_seconds, self.counters))

    async def decode(self, syntax: str, data: bytes, image: ImagePixel) -> Pixels:
        """One frame of an encapsulated transfer syntax. Raises BadPixels; Unavailable when all decoders stay busy."""
        self._check(syntax, data, image)
        job = _Job("decode", syntax, data, image.decoded_bytes, _attributes(image))

        def take(shared: mmap.mmap, out: int, answer: dict[str, Any]) -> Pixels:
            values = np.frombuffer(shared[out : out + answer["bytes"]], image.dtype)
            return Pixels(values.reshape(image.shape), answer["photometric"])

        return await self._run(job, take)

    async def reduce(self, jpeg: bytes, image: ImagePixel, factor: int) -> Pixels:
        """A JPEG frame of 8-bit samples at 1/2, 1/4 or 1/8 of its size, both sides multiples of `factor`.

        See `reduced_jpeg`; raises as `decode` does.
        """
        self._check(JPEG_BASELINE, jpeg, image)
        job = _Job("reduce", JPEG_BASELINE, jpeg, image.decoded_bytes, _attributes(image), factor=factor)
        shape = (image.rows // factor, image.columns // factor, *image.shape[2:])

        def take(shared: mmap.mmap, out: int, answer: dict[str, Any]) -> Pixels:
            values = np.frombuffer(shared[out : out + answer["bytes"]], np.uint8)
            return Pixels(values.reshape(shape), answer["photometric"])

        return await self._run(job, take)

    async def picture(self, png: bytes, image: ImagePixel) -> NDArray[Any]:
        """The pixels of a PNG file whose header says `image`, without alpha. Raises as `decode` does."""
        room = image.rows * image.columns * (image.samples + 1) * image.dtype.itemsize

        def take(shared: mmap.mmap, out: int, answer: dict[str, Any]) -> NDArray[Any]:
            if answer["bytes"] != image.decoded_bytes:
                raise BadPixels("the picture is not what its header says", attribute="PixelData")
            return np.frombuffer(shared[out : out + image.decoded_bytes], image.dtype).reshape(image.shape)

        return await self._run(_Job("png", "png", png, room, {}), take)

    def _check(self, syntax: str, data: bytes, image: ImagePixel) -> None:
        """Raise BadPixels before a process is kept busy with it."""
        try:
            check_stream(syntax, data, image)
        except BadPixels:
            self.counters.count(syntax, "refused")
            raise

    async def recompress(self, jpeg: bytes) -> bytes:
        """A JPEG baseline frame as JPEG XL, from which `restore` makes the same bytes again."""
        return await self._run(_Job("recompress", JPEG_BASELINE, jpeg, 2 * len(jpeg) + _PAGE, {}), _bytes)

    async def restore(self, packed: bytes, image: ImagePixel) -> bytes:
        """The JPEG baseline frame that was recompressed as JPEG XL."""
        room = 2 * image.decoded_bytes + 16 * len(packed)
        return await self._run(_Job("restore", JPEG_XL_RECOMPRESSION, packed, room, {}), _bytes)

    async def _run(self, job: _Job, take: Callable[[mmap.mmap, int, dict[str, Any]], T]) -> T:
        self._asked += 1
        try:
            return await self._run_in_turn(job, take)
        finally:
            self._asked -= 1

    async def _run_in_turn(self, job: _Job, take: Callable[[mmap.mmap, int, dict[str, Any]], T]) -> T:
        try:
            async with asyncio.timeout(_WAIT):
                decoder = await self._idle.get()
        except TimeoutError:
            self.counters.count(job.syntax, "busy")
            raise Unavailable("all decoders are busy; ask again") from None
        if self._asked == 1:  # nobody else needs the cores, as far as this process knows
            job = replace(job, threads=self._threads)
        try:
            result = await decoder.run(job, take)
        except BadPixels:
            self.counters.count(job.syntax, "failed")
            raise
        except _Died as error:
            self.counters.count(job.syntax, "timed out" if isinstance(error, _TooSlow) else "crashed")
            raise BadPixels("decoding the frame took too much time or memory", attribute="PixelData") from None
        finally:
            self._idle.put_nowait(decoder)
        self.counters.count(job.syntax, "decoded")
        return result

    def close(self) -> None:
        """End the idle processes; those at work end with this process."""
        while not self._idle.empty():
            self._idle.get_nowait().kill()


@lru_cache(maxsize=256)
def _attributes(image: ImagePixel) -> Mapping[str, Any]:
    return asdict(image)


def _bytes(shared: mmap.mmap, out: int, answer: dict[str, Any]) -> bytes:
    return shared[out : out + answer["bytes"]]
