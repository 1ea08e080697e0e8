"""Files that are made one after the other, the next ones begun while an earlier one is sent."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Final

from dicomweb.errors import BadPixels, NotAcceptable

# What is made of one file before its turn comes.
_HELD: Final = 4 << 20


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
