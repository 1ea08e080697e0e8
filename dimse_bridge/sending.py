"""C-STORE to another application entity: many instances over as few associations as there can be (PS3.4 annex B)."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from mmap import mmap
from pathlib import Path
from typing import Final, Self

from dicomweb.errors import ArchiveError, BadDicom, PeerFailed, Unavailable
from dicomweb.media import EXPLICIT_LE, IMPLICIT_LE
from dicomweb.meta import FileMeta, read_file_meta
from dicomweb.pixels.syntaxes import HTJ2K_RPCL, RLE
from dimse_bridge import status
from dimse_bridge.outgoing import Preparation
from dimse_bridge.requestor import MAX_CONTEXTS, Link, NothingAccepted, Proposal, status_said
from dimse_bridge.scu import Requestor
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
        self._access = access
        self._modality = modality
        self._originator = originator
        self._groups = groups(kinds, transcoding=modality.transcoding)
        self._group: dict[Kind, tuple[Proposal, ...]] = {}
        self._link: Link | None = None
        self._accepted: Mapping[str, Sequence[str]] = {}
        self._stack = AsyncExitStack()
        self._next: Preparation | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """End the association: released, or cut where there was an error."""
        if self._next is not None:
            await self._next.drop()
        await self._ended(kind, error)

    async def _ended(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        self._link = None
        await self._stack.__aexit__(kind, error, None)

    async def send(self, instance: Instance, following: Instance | None = None) -> Outcome:
        """Send one instance, over a new association where the old one broke; the `following` one is read meanwhile.

        Raises PeerFailed where there is none to be had, Unavailable where the archive is.
        """
        for attempt in range(1, _TRIES + 1):
            try:
                return await self._sent(instance, following)
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
            await self._ended(type(error), error)

    async def _sent(self, instance: Instance, following: Instance | None) -> Outcome:
        link = await self._linked((instance.sop_class, instance.transfer_syntax))
        preparation = await self._prepared(instance)
        if following is not None and (following.sop_class, following.transfer_syntax) in self._group:
            self._next = self._preparation(following)
        file = await preparation.ready()
        try:
            answer = await self._requestor.run(link, partial(link.store, file.path, self._originator))
        finally:
            await file.close()
        comment = "" if answer.Status == 0 else status_said(answer)[0]
        return Outcome(instance, answer.Status, comment)

    async def _linked(self, kind: Kind) -> Link:
        if self._link is not None and kind in self._group:
            return self._link
        await self._ended(None, None)
        self._stack = AsyncExitStack()
        found = next((group for group in self._groups if kind in group), None)
        if found is None:  # it was stored anew, in another form, since the kinds were counted
            found = groups([kind], transcoding=self._modality.transcoding)[0]
        proposals = list(dict.fromkeys(each for proposed in found.values() for each in proposed))
        self._link = await self._stack.enter_async_context(self._requestor.link(self._modality, proposals))
        self._group, self._accepted = found, self._link.accepted()
        return self._link

    async def _prepared(self, instance: Instance) -> Preparation:
        """What was begun of an instance, where it suits this association, or what is begun now."""
        ahead, self._next = self._next, None
        if ahead is not None:
            if ahead.instance == instance and ahead.accepted == self._accepted.get(instance.sop_class, []):
                return ahead
            await ahead.drop()
        return self._preparation(instance)

    def _preparation(self, instance: Instance) -> Preparation:
        accepted = self._accepted.get(instance.sop_class, [])
        return Preparation(self._requestor.archive, self._access, instance, accepted)


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
        ordered = sorted(instances, key=lambda each: order[each.sop_class, each.transfer_syntax])
        for instance, following in zip_longest(ordered, ordered[1:]):
            yield await sender.send(instance, following)


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
