"""C-STORE: a data set on its way into the archive (PS3.4 annex B). It goes undecoded into a spool as it comes."""

import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeAlias

from dicomweb.errors import ArchiveError, BadDicom, Forbidden, IdentityMismatch
from dicomweb.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from dicomweb.uids import is_uid
from dimse_bridge.identity import HEAD_SIZE, check_identity
from dimse_bridge.service import Association
from storage.provenance import Provenance
from storage.spool import Spool, Spooled

# Pieces below this are collected: each would hold the whole chunk that it was received in.
_SMALL: Final = 64 << 10
_COLLECTED: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Target:
    """What a C-STORE says it brings: its own UIDs, and the class and encoding of its presentation context."""

    sop_class: str
    sop_instance: str
    context_class: str
    transfer_syntax: str

    def check(self) -> None:
        """Raise what is wrong with the request itself."""
        if not is_uid(self.sop_instance):
            raise BadDicom("Affected SOP Instance UID is not a valid UID")
        if self.sop_class != self.context_class:
            raise IdentityMismatch("Affected SOP Class UID differs from the presentation context")


class Incoming(Protocol):
    """Where the data set of one C-STORE goes. What any of these raises becomes the status of the response."""

    def write(self, piece: memoryview) -> bool:
        """Take the next piece, which may be kept; False when `flush` is due before the next one."""

    async def flush(self) -> None:
        """Make room for more."""

    async def store(self) -> None:
        """The data set is complete: store it durably."""

    def discard(self) -> None:
        """Drop what was received, unless it was stored. Safe to call at any time."""


Begin: TypeAlias = Callable[[Association, Target], Incoming]


def file_meta(sop_class: str, sop_instance: str, transfer_syntax: str, source_aet: str) -> bytes:
    """Preamble, prefix and file meta group (PS3.10 7.1) for a data set that came over the network without one."""

    def element(number: int, vr: bytes, value: bytes, pad: bytes) -> bytes:
        value += pad * (len(value) % 2)
        return struct.pack("<HH2sH", 2, number, vr, len(value)) + value

    group = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\x00\x01"
    group += element(0x02, b"UI", sop_class.encode(), b"\0")
    group += element(0x03, b"UI", sop_instance.encode(), b"\0")
    group += element(0x10, b"UI", transfer_syntax.encode(), b"\0")
    group += element(0x12, b"UI", IMPLEMENTATION_CLASS_UID.encode(), b"\0")
    group += element(0x13, b"SH", IMPLEMENTATION_VERSION.encode(), b" ")
    if source_aet:
        group += element(0x16, b"AE", source_aet.encode("ascii", "replace"), b" ")
    return bytes(128) + b"DICM" + element(0x00, b"UL", struct.pack("<I", len(group)), b"") + group


class SpoolIncoming:
    """A data set on its way into a spool, and from there to `keep`, which makes it durable and releases the spool."""

    def __init__(
        self,
        association: Association,
        target: Target,
        new_spool: Callable[[], Spool],
        keep: Callable[[Spooled], Awaitable[object]],
    ) -> None:
        """Raises what is wrong with the request itself."""
        if "dicom.write" not in association.access.scopes:
            raise Forbidden("this application entity may not store")
        target.check()
        self._target = target
        self._head = bytearray()
        self._small = bytearray()
        self._keep = keep
        self._spool = new_spool()
        self._spool.write_now(
            file_meta(target.sop_class, target.sop_instance, target.transfer_syntax, association.calling_aet)
        )

    def write(self, piece: memoryview) -> bool:
        """See Incoming."""
        if len(self._head) < HEAD_SIZE:
            self._head += piece[: HEAD_SIZE - len(self._head)]
        if len(piece) < _SMALL:
            self._small += piece
            return len(self._small) < _COLLECTED or self._collected()
        ready = self._collected() if self._small else True
        return self._spool.write_now(piece) and ready

    def _collected(self) -> bool:
        small, self._small = self._small, bytearray()
        return self._spool.write_now(memoryview(small))

    async def flush(self) -> None:
        """See Incoming."""
        await self._spool.write(b"")

    async def store(self) -> None:
        """See Incoming."""
        target = self._target
        check_identity(bytes(self._head), target.transfer_syntax, target.sop_class, target.sop_instance)
        if self._small and not self._collected():
            await self.flush()
        await self._keep(await self._spool.finish())

    def discard(self) -> None:
        """See Incoming."""
        self._spool.discard()


def into_archive(association: Association, target: Target) -> SpoolIncoming:
    """A data set on its way into the archive that the association serves. Raises what is wrong with the request."""
    source = Provenance("dimse", association.peer, association.calling_aet, association.called_aet)
    store = association.archive.ingest.store
    return SpoolIncoming(
        association,
        target,
        partial(association.archive.new_spool, eager=True),
        lambda spooled: store(association.access, spooled, source),
    )


class Refused:
    """What still comes for a C-STORE that failed already is read and dropped."""

    def __init__(self, failure: ArchiveError) -> None:
        self._failure = failure

    def write(self, piece: memoryview) -> bool:  # noqa: ARG002 - see Incoming
        """See Incoming."""
        return True

    async def flush(self) -> None:
        """See Incoming."""

    async def store(self) -> None:
        """Raise why it failed."""
        raise self._failure

    def discard(self) -> None:
        """See Incoming."""
