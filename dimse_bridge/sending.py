"""C-STORE to another application entity: many instances over as few associations as there can be (PS3.4 annex B)."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from mmap import mmap
from pathlib import Path
from typing import Final, Self

from dicomweb.errors import ArchiveError, BadDicom, PeerFailed, Unavailable
from dicomweb.media import EXPLICIT_LE, IMPLICIT_LE
from dicomweb.meta import FileMeta, read_file_meta
from dicomweb.pixels.syntaxes import HTJ2K_RPCL, RLE
from dimse_bridge import status
from dimse_bridge.requestor import MAX_CONTEXTS, Link, NothingAccepted, Proposal, status_said
from dimse_bridge.scu import Requestor
from dimse_bridge.store import file_meta
from storage.access import Access
from storage.modalities import Modality
from storage.retrieve import Instance
from storage.spool import Spooled

_TRIES: Final = 4
_AGAIN_SECONDS: Final = 1.0
_WARNINGS: Final = frozenset((0xB000, 0xB006, 0xB007))
# What peers take that refuse uncompressed objects, the most common first: lossless JPEG, JPEG 2000, JPEG-LS, RLE,
# lossless JPEG of any predictor, HTJ2K.
_LOSSLESS: Final = (
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.80",
    RLE,
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.201",
    HTJ2K_RPCL,
)

# SOP class and stored transfer syntax.
Kind = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one instance: the status of its C-STORE response, or ours where it was never sent."""

    instance: Instance
    status: int
    comment: str = ""

    @property
    def sent(self) -> bool:
        """Whether the peer has it, with or without a warning."""
        return self.status == 0 or self.status in _WARNINGS

    @property
    def warning(self) -> bool:
        """Whether the peer has it, but changed it."""
        return self.status in _WARNINGS


def groups(kinds: Iterable[Kind], *, transcoding: bool) -> list[dict[Kind, tuple[Proposal, ...]]]:
    """Presentation contexts for what is to be sent, so many together as one association can have.

    Each kind as it is stored, alone, so that the answer tells whether the peer takes it; and for each SOP class the
    uncompressed forms that everything can be turned into. Contexts that are left propose what can be encoded without
    loss.
    """
    classes: dict[str, list[str]] = {}
    for sop_class, syntax in sorted(set(kinds)):
        classes.setdefault(sop_class, []).append(syntax)
    made: list[dict[Kind, tuple[Proposal, ...]]] = [{}]
    size = 0
    for sop_class, syntaxes in classes.items():
        fallback = (Proposal(sop_class, (EXPLICIT_LE, IMPLICIT_LE)),) if transcoding else ()
        if size + len(syntaxes) + len(fallback) > MAX_CONTEXTS and made[-1]:
            made.append({})
            size = 0
        size += len(syntaxes) + len(fallback)
        for syntax in syntaxes:
            made[-1][sop_class, syntax] = (Proposal(sop_class, (syntax,)), *fallback)
    return [_filled(group) if transcoding else group for group in made if group]


def _filled(group: dict[Kind, tuple[Proposal, ...]]) -> dict[Kind, tuple[Proposal, ...]]:
    """With lossless encodings, each for all SOP classes before the next one, as far as there are contexts."""
    room = MAX_CONTEXTS - len({each for proposed in group.values() for each in proposed})
    more: dict[str, list[Proposal]] = {sop_class: [] for sop_class, _ in group}
    for syntax in _LOSSLESS:
        for sop_class, proposals in more.items():
            if room and (sop_class, syntax) not in group:
                proposals.append(Proposal(sop_class, (syntax,)))
                room -= 1
    return {kind: (*proposed, *more[kind[0]]) for kind, proposed in group.items()}


class Sender:
    """Sends to one application entity, for the time of a `with` block.

    The association is kept as long as it suits what is sent.
    """

    def __init__(
        self,
        requestor: Requestor,
        access: Access,
        modality: Modality,
        kinds: Iterable[Kind],
        originator: tuple[str, int] | None = None,
    ) -> None:
        """`kinds`: all that will be sent; `originator`: AE title and message ID of the C-MOVE that asked for it."""
        self._requestor = requestor
        self._archive = requestor.archive
        self._access = access
        self._modality = modality
        self._originator = originator
        self._groups = groups(kinds, transcoding=modality.transcoding)
        self._group: dict[Kind, tuple[Proposal, ...]] = {}
        self._link: Link | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """End the association: released, or cut where there was an error."""
        self._link = None
        await self._stack.__aexit__(kind, error, None)

    async def send(self, instance: Instance) -> Outcome:
        """Send one instance, over a new association where the old one broke.

        Raises PeerFailed where there is none to be had, Unavailable where the archive is.
        """
        for attempt in range(1, _TRIES + 1):
            try:
                return await self._sent(instance)
            except NothingAccepted as error:
                await self._dropped(error)
                return Outcome(instance, status.SOP_CLASS_NOT_SUPPORTED, error.message)
            except PeerFailed as error:
                await self._dropped(error)
                if attempt == _TRIES:
                    raise
                await asyncio.sleep(_AGAIN_SECONDS * (attempt - 1))
            except Unavailable:
                raise
            except ArchiveError as error:
                return Outcome(instance, status.of_unsent(error), error.message)
        raise AssertionError("the loop returns or raises")

    async def _dropped(self, error: PeerFailed) -> None:
        with suppress(PeerFailed):
            await self.__aexit__(type(error), error, None)

    async def _sent(self, instance: Instance) -> Outcome:
        link = await self._linked((instance.sop_class, instance.transfer_syntax))
        async with self._file(instance, link.accepted().get(instance.sop_class, [])) as path:
            answer = await self._requestor.run(link, partial(link.store, path, self._originator))
        comment = "" if answer.Status == 0 else status_said(answer)[0]
        return Outcome(instance, answer.Status, comment)

    async def _linked(self, kind: Kind) -> Link:
        if self._link is not None and kind in self._group:
            return self._link
        await self.__aexit__(None, None, None)
        self._stack = AsyncExitStack()
        found = next((group for group in self._groups if kind in group), None)
        if found is None:  # it was stored anew, in another form, since the kinds were counted
            found = groups([kind], transcoding=self._modality.transcoding)[0]
        proposals = list(dict.fromkeys(each for proposed in found.values() for each in proposed))
        self._link = await self._stack.enter_async_context(self._requestor.link(self._modality, proposals))
        self._group = found
        return self._link

    @asynccontextmanager
    async def _file(self, instance: Instance, accepted: Sequence[str]) -> AsyncIterator[Path]:
        """The Part 10 file in one of the transfer syntaxes: the stored one itself where it is a file, else a copy.

        Raises as `DataSetService.open`.
        """
        archive = self._archive
        # A deflated data set may be odd in a file, and may not be odd in a message (PS3.5 A.5, PS3.8 annex E.2).
        odd = (instance.size - instance.meta_size) % 2 == 1
        local = archive.objects.local_path(instance.key) if instance.transfer_syntax in accepted and not odd else None
        if local is not None and await asyncio.to_thread(_is_all, local, instance):
            yield local
            return
        target, data = await archive.data_sets.open(self._access, instance, accepted)
        async with aclosing(_pieces(data)) as pieces:
            archive.objects.spool_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(dir=archive.objects.spool_dir, prefix="send-") as file:
                await asyncio.to_thread(file.write, file_meta(instance.sop_class, instance.sop, target, ""))
                async for piece in pieces:
                    await asyncio.to_thread(file.write, piece)
                await asyncio.to_thread(file.flush)
                yield Path(file.name)


async def _pieces(data: bytes | AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    if isinstance(data, bytes):
        yield data
        return
    async with aclosing(data):
        async for piece in data:
            yield piece


def _is_all(path: Path, instance: Instance) -> bool:
    try:
        return instance.base == 0 and path.stat().st_size == instance.size
    except OSError:
        return False


async def send(
    requestor: Requestor,
    access: Access,
    modality: Modality,
    instances: Sequence[Instance],
    *,
    originator: tuple[str, int] | None = None,
) -> AsyncGenerator[Outcome, None]:
    """Send instances to a modality: an outcome for each, as they are sent.

    `originator`: AE title and message ID of the C-MOVE that asks for it (PS3.7 9.1.1.1.6). An association that breaks
    is made again, and what was not answered is sent again. Raises PeerFailed where there is none to be had.
    """
    kinds = {(each.sop_class, each.transfer_syntax) for each in instances}
    order = {
        kind: number for number, group in enumerate(groups(kinds, transcoding=modality.transcoding)) for kind in group
    }
    async with Sender(requestor, access, modality, kinds, originator) as sender:
        for instance in sorted(instances, key=lambda each: order[each.sop_class, each.transfer_syntax]):
            yield await sender.send(instance)


async def send_file(requestor: Requestor, modality: Modality, spooled: Spooled) -> None:
    """Send a Part 10 file that is not stored, as it is. Raises PeerFailed, BadDicom."""
    found = await asyncio.to_thread(_meta, spooled)
    if not found.sop_class or not found.sop_uid:
        raise BadDicom("the file meta information does not say which instance it is")
    proposals = [Proposal(found.sop_class, (found.transfer_syntax,))]
    async with requestor.link(modality, proposals) as link:
        if spooled.path is not None:
            answer = await requestor.run(link, partial(link.store, spooled.path, None))
        else:
            with tempfile.NamedTemporaryFile(prefix="send-") as file:
                await asyncio.to_thread(file.write, spooled.data or b"")
                await asyncio.to_thread(file.flush)
                answer = await requestor.run(link, partial(link.store, Path(file.name), None))
    if answer.Status != 0 and answer.Status not in _WARNINGS:
        raise PeerFailed(*status_said(answer))


def _meta(spooled: Spooled) -> FileMeta:
    buffer = spooled.buffer()
    try:
        return read_file_meta(buffer)
    finally:
        if isinstance(buffer, mmap):
            buffer.close()
