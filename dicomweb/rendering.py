"""From elements to attribute objects of the JSON model: what that takes, and what comes to light on the way."""

from typing import cast

from dicomweb.bulk import BulkEntry, bulk_uri
from dicomweb.charset import Codecs, codecs_for, is_defined
from dicomweb.dictionary import LUT_DESCRIPTOR, PIXEL_REPRESENTATION, Resolved, State, Unsure, is_creator, resolve
from dicomweb.notes import Notes
from dicomweb.structure import Buffer, Coding, Head, ScanLimits, readers, refuse
from dicomweb.values import BINARY_VRS, TEXT_BULK, bulk_reference, render, text_value


class Rendering:
    """The JSON side of one scan.

    Without `values` no JSON is made: the walk then only checks the structure and finds the bulk values, and pydicom
    does the rest, save for the paths in `opaque`, into which nobody must look.
    """

    def __init__(
        self, buffer: Buffer, limits: ScanLimits, coding: Coding, sop_uid: str, version: str, *, values: bool = True
    ) -> None:
        # Slices of a mapping are bytes, and those of a memoryview compare and hash like bytes.
        self.buffer = cast("bytes", buffer)
        self.limits = limits
        self.coding = coding
        self.sop_uid = sop_uid
        self.version = version
        self.values = values
        self.notes = Notes()
        self.bulk: list[BulkEntry] = []
        self.opaque: dict[str, bytes] = {}
        # Where values of Specific Character Set are that pydicom must not see, (offset, length).
        self.undefined_charsets: list[tuple[int, int]] = []
        self._u16, self._u32 = readers(coding)

    def is_bulk(self, vr: str, length: int) -> bool:
        """Whether a value of `length` bytes is fetched separately."""
        return length > (self.limits.bulk_threshold if vr in BINARY_VRS else TEXT_BULK - 1)

    def bulk_value(self, path: str, vr: str, offset: int, length: int, *, encapsulated: bool = False) -> bytes:
        """Note a bulk value; its attribute object."""
        if not self.sop_uid:
            refuse(int(path[-8:], 16), offset, "a bulk value before the SOP Instance UID")
        self.bulk.append(BulkEntry(path, offset, length, vr, encapsulated))
        return bulk_reference(vr, bulk_uri(self.sop_uid, path, self.version))

    def value(self, key: str, vr: str, raw: bytes, codecs: Codecs) -> bytes:
        """The attribute object of a value that is neither a sequence nor bulk."""
        return render(key, vr, raw, codecs, self.notes) if self.values else b""

    def charset(self, raw: bytes, offset: int) -> Codecs:
        """The codecs of a Specific Character Set value at `offset`."""
        if not self.values and not is_defined(raw):
            self.undefined_charsets.append((offset, len(raw)))
        return codecs_for(raw, self.notes)

    def resolved(self, head: Head, length: int, state: State, *, explicit: bool) -> Resolved:
        """The VR of an element that does not say it; without values, UN for those that only pydicom can tell."""
        try:
            return resolve(head.tag, length, state, explicit=explicit)
        except Unsure:
            if self.values:
                raise
            return Resolved("UN")

    def take_note(self, tag: int, vr: str, raw: bytes, codecs: Codecs, state: State) -> None:
        """Remember a value that decides VRs further down in the same data set."""
        if is_creator(tag):
            if vr == "LO":
                state[tag] = text_value(raw, codecs, self.notes)
        elif tag in {PIXEL_REPRESENTATION, LUT_DESCRIPTOR} and len(raw) >= 2:
            state[tag] = self._u16(raw, 0)[0]
