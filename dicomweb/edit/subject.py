"""What a file says of itself before it is edited: rules ask for it ahead of where it stands in the data set."""

from dataclasses import dataclass
from typing import Final

from dicomweb.charset import DEFAULT, Codecs, codecs_for, decode
from dicomweb.edit.skipping import CUT, has_fragments, skip_fragments, skip_sequence, value_of
from dicomweb.notes import Notes
from dicomweb.structure import (
    IMPLICIT_LITTLE,
    UNDEFINED,
    Buffer,
    Coding,
    ScanLimits,
    heads_of,
    readers,
    refuse,
)

CHARACTER_SET: Final = 0x00080005
SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
PATIENT_NAME, PATIENT_ID, ISSUER = 0x00100010, 0x00100020, 0x00100021
FRAME_OF_REFERENCE: Final = 0x00200052
_PIXEL_REPRESENTATION, _BURNED_IN, _RECOGNIZABLE = 0x00280103, 0x00280301, 0x00280302
_WANTED: Final = frozenset((
    CHARACTER_SET, SOP_CLASS, SOP_INSTANCE, STUDY, SERIES, PATIENT_NAME, PATIENT_ID, ISSUER, FRAME_OF_REFERENCE,
    _PIXEL_REPRESENTATION, _BURNED_IN, _RECOGNIZABLE,
    # Whoever is named by these must not be named by a text that is cleaned either.
    0x00080050, 0x00080080, 0x00080090, 0x00081010, 0x00081048, 0x00081050, 0x00081060, 0x00081070, 0x00100030,
    0x00101000, 0x00101001, 0x00101005, 0x00101060, 0x00200010, 0x00321032,
))  # fmt: skip
_TEXT_LIMIT: Final = 4096


@dataclass(frozen=True, slots=True)
class Subject:
    """Attributes of the data set itself (not of its items) by tag, as text; "" for what is absent.

    `pixel_representation` is None where there is none.
    """

    texts: dict[int, str]
    character_set: bytes
    codecs: Codecs
    pixel_representation: int | None

    def text(self, tag: int) -> str:
        """The text of an attribute without its padding."""
        return self.texts.get(tag, "")

    @property
    def uids(self) -> frozenset[str]:
        """The UIDs of the instance, of what it belongs to and of its frame of reference."""
        found = {self.text(tag) for tag in (SOP_INSTANCE, STUDY, SERIES, FRAME_OF_REFERENCE)}
        return frozenset(found - {""})

    @property
    def patient(self) -> str:
        """What tells the patient from others: the ID and who issued it, else the study."""
        patient_id = self.text(PATIENT_ID)
        return f"{patient_id}\0{self.text(ISSUER)}" if patient_id else f"\0{self.text(STUDY)}"

    @property
    def burned_in(self) -> bool:
        """Whether Burned In Annotation (0028,0301) is YES: the pixels may name the patient."""
        return self.text(_BURNED_IN) == "YES"

    @property
    def recognizable(self) -> bool:
        """Whether Recognizable Visual Features (0028,0302) is YES: the pixels may show the patient's face."""
        return self.text(_RECOGNIZABLE) == "YES"


def read_subject(buffer: Buffer, pos: int, coding: Coding, limits: ScanLimits) -> Subject:
    """Walk the data set at `pos` as far as is needed; sequences are passed over. BadDicom when it is cut."""
    heads, end, last = heads_of(coding), len(buffer), -1
    implicit, u16 = not coding.explicit, readers(coding)[0]
    known, size = heads.known, 4 if implicit else 6
    raws: dict[int, bytes] = {}
    while pos < end and last < _RECOGNIZABLE:
        if pos + 8 > end:
            refuse(max(last, 0), pos, f"an element header is cut: {CUT}")
        raw = bytes(buffer[pos : pos + size])
        head = known.get(raw) or heads.read(raw, pos)
        tag = head.tag
        if head.long or implicit:
            start, length = value_of(buffer, pos, coding, long=True)
        else:
            start, length = pos + 8, u16(buffer, pos + 6)[0]
        if tag <= last:
            refuse(tag, pos, "tags are not in ascending order")
        last = tag
        if length == UNDEFINED and has_fragments(head.vr, head.kind):
            pos = skip_fragments(buffer, start, end, tag, limits.max_frames)
        elif length == UNDEFINED:
            inner = coding if head.vr == "SQ" else IMPLICIT_LITTLE
            pos = skip_sequence(buffer, start, end, inner, tag, 0, limits)
        else:
            pos = start + length
            if pos > end:
                refuse(tag, start, f"the value ends past the end of the file: {CUT}")
            if tag in _WANTED and length <= _TEXT_LIMIT:
                raws[tag] = bytes(buffer[start:pos])
    return _subject(raws, coding)


def _subject(raws: dict[int, bytes], coding: Coding) -> Subject:
    notes = Notes()
    character_set = raws.pop(CHARACTER_SET, b"")
    signed = raws.pop(_PIXEL_REPRESENTATION, b"")
    codecs = codecs_for(character_set, notes) if character_set else DEFAULT
    texts = {tag: decode(raw, codecs, notes).strip(" \0") for tag, raw in raws.items()}
    u16 = readers(coding)[0]
    return Subject(texts, character_set, codecs, u16(signed, 0)[0] if len(signed) >= 2 else None)
