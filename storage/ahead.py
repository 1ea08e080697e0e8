"""Files that are read or made one after the other, the next ones begun while an earlier one is sent."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from dicomweb.errors import BadPixels, NotAcceptable
from storage.damage import Damage
from storage.objects import ObjectStore

if TYPE_CHECKING:
    from storage.retrieve import Instance

T = TypeVar("T")

# What is made of one file before its turn comes.
_HELD: Final = 4 << 20
# Stored files that are read ahead, and how large one may be to be read at once.
_READ_AHEAD: Final = 4
_WHOLE_OBJECT: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Begun:
    """A file whose first bytes are made: all of it, or `held` and what `rest` yields.

    `fault`: why there is no such file. A fault behind the first bytes is raised by `chunks`.
    """

    held: tuple[bytes, ...]
    rest: AsyncGenerator[bytes, None] | None = None
    fault: BadPixels | NotAcceptable | None = None

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The whole file."""
        for chunk in self.held:
            yield chunk
        if self.rest is not None:
            async for chunk in self.rest:
                yield chunk

    async def close(self) -> None:
        """Stop making it."""
        if self.rest is not None:
            await self.rest.aclose()


async def with_next(items: AsyncGenerator[T, None]) -> AsyncGenerator[tuple[T, T | None], None]:
    """Each of the items with the one that follows it, None with the last."""
    async with aclosing(items):
        current = await anext(items, None)
        while current is not None:
            following = await anext(items, None)
            yield current, following
            current = following


async def begun_ahead(files: Iterable[AsyncGenerator[bytes, None]], count: int) -> AsyncGenerator[Begun, None]:
    """The files in their order, each closed with its turn. Of `count` behind the one that is read 4 MiB are made."""
    waiting, ahead = iter(files), deque[asyncio.Task[Begun]]()

    def fill() -> None:
        while len(ahead) < count and (file := next(waiting, None)) is not None:
            ahead.append(asyncio.create_task(_begin(file)))

    try:
        fill()
        while ahead:
            begun = await ahead[0]
            ahead.popleft()
            fill()
            try:
                yield begun
            finally:
                await begun.close()
    finally:
        for task in ahead:
            task.cancel()
        for left in await asyncio.gather(*ahead, return_exceptions=True):
            if isinstance(left, Begun):
                await left.close()


async def _begin(file: AsyncGenerator[bytes, None]) -> Begun:
    held, size = list[bytes](), 0
    try:
        async for chunk in file:
            held.append(chunk)
            size += len(chunk)
            if size > _HELD:
                return Begun(tuple(held), file)
    except (BadPixels, NotAcceptable) as fault:
        return Begun((), fault=fault)
    except BaseException:
        await file.aclose()
        raise
    return Begun(tuple(held))


async def stored_ahead(
    objects: ObjectStore, damage: Damage, instances: Iterable["Instance"]
) -> AsyncGenerator[tuple["Instance", bytes | AsyncIterator[bytes]], None]:
    """The stored files one after the other; small ones are read ahead, unless they are there without waiting."""
    ahead: deque[tuple[Instance, asyncio.Task[bytes] | None]] = deque()
    queue = iter(instances)

    async def whole(instance: "Instance") -> bytes:
        read = objects.get_range(instance.key, instance.base, instance.size)
        return await damage.reading(instance.tenant, instance.sop, instance.key, read)

    def add(instance: "Instance") -> None:
        task = asyncio.create_task(whole(instance)) if instance.size <= _WHOLE_OBJECT else None
        ahead.append((instance, task))

    def fill() -> None:
        while len(ahead) < _READ_AHEAD and (nxt := next(queue, None)) is not None:
            add(nxt)

    try:
        while True:
            if not ahead:
                nxt = next(queue, None)
                if nxt is None:
                    return
                data = objects.get_cached(nxt.key, nxt.base, nxt.size)
                if data is not None:
                    yield nxt, data
                    continue
                add(nxt)
            fill()
            instance, task = ahead.popleft()
            body: bytes | AsyncIterator[bytes]
            if task is None:
                chunks = objects.stream(instance.key, instance.base, instance.size)
                body = damage.streaming(instance.tenant, instance.sop, instance.key, chunks)
            else:
                body = await task
            fill()
            yield instance, body
    finally:
        for _, task in ahead:
            if task is not None:
                task.cancel()
