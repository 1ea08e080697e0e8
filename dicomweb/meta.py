"""File meta information (PS3.10 7.1): the preamble and group 0002."""

from dataclasses import dataclass
from struct import Struct
from typing import Final

from dicomweb.errors import BadDicom
from dicomweb.structure import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, Buffer, Coding, refuse
from dicomweb.uids import is_uid
from dicomweb.values import LONG_VRS, SHORT_VRS

_U32 = Struct("<I").unpack_from
_U16 = Struct("<H").unpack_from
_START = 132
_SOP_CLASS = b"\x02\x00\x02\x00UI"
_DICOMDIR_CLASS = b"1.2.840.10008.1.3.10"
_CODINGS: Final = {"1.2.840.10008.1.2": IMPLICIT_LITTLE, "1.2.840.10008.1.2.2": EXPLICIT_BIG}
# Deflated Explicit VR Little Endian, JPIP Referenced Deflate, JPIP HTJ2K Referenced Deflate (PS3.5 A.5, A.7, A.12).
_DEFLATED: Final = frozenset(f"1.2.840.10008.1.2.{arc}" for arc in ("1.99", "4.95", "4.205"))
_WANTED = {b"\x02\x00": "sop_class", b"\x03\x00": "sop_uid", b"\x10\x00": "transfer_syntax"}


@dataclass(frozen=True, slots=True)
class FileMeta:
    """`size` is the offset of the first byte of the data set; UIDs that are absent are ""."""

    transfer_syntax: str
    sop_class: str
    sop_uid: str
    size: int
    warnings: tuple[str, ...]

    @property
    def coding(self) -> Coding:
        """How the element headers of the data set are written."""
        return _CODINGS.get(self.transfer_syntax, EXPLICIT_LITTLE)

    @property
    def deflated(self) -> bool:
        """Whether the data set is compressed as a whole."""
        return self.transfer_syntax in _DEFLATED


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with `head` says that it is DICOM: it has a preamble and the prefix."""
    return head[128:_START] == b"DICM"


def is_dicomdir(head: bytes) -> bool:
    """Whether a DICOM file that begins with `head` is the index of a medium (PS3.10 8.6): it holds no image."""
    at = head.find(_SOP_CLASS, _START)
    if at < 0:
        return False
    start = at + 8
    return head[start : start + int.from_bytes(head[at + 6 : start], "little")].rstrip(b"\0 ") == _DICOMDIR_CLASS


def read_file_meta(buffer: Buffer) -> FileMeta:
    """Group 0002.

    A group length that is absent or wrong is tolerated with a warning: the group ends where another one begins. Raises
    BadDicom without preamble and "DICM", when an element does not fit, or when the transfer syntax is missing.
    """
    end = len(buffer)
    if end < _START + 8 or buffer[128:132] != b"DICM":
        raise BadDicom("not a DICOM file: no preamble and DICM prefix")
    found: dict[str, str] = {}
    pos, last, declared = _START, -1, -1
    while pos < end and buffer[pos : pos + 2] == b"\x02\x00":
        if pos + 8 > end:
            raise BadDicom("the file meta information is cut")
        element = _U16(buffer, pos + 2)[0]
        tag = 0x00020000 | element
        if element <= last:
            refuse(tag, pos, "tags are not in ascending order")
        last = element
        vr = bytes(buffer[pos + 4 : pos + 6]).decode("latin-1")
        if vr in SHORT_VRS:
            start, length = pos + 8, _U16(buffer, pos + 6)[0]
        elif vr in LONG_VRS and vr != "SQ" and pos + 12 <= end:
            start, length = pos + 12, _U32(buffer, pos + 8)[0]
        else:
            refuse(tag, pos, "unknown VR in the file meta information")
        if length > end - start:
            refuse(tag, pos, "the value ends past the end of the file: the file is cut or a length is wrong")
        raw = bytes(buffer[start : start + length]) if length <= 128 else b""
        if element == 0 and vr == "UL" and length == 4:
            declared = start + 4 + _U32(raw)[0]
        elif name := _WANTED.get(bytes(buffer[pos + 2 : pos + 4])):
            found[name] = raw.decode("latin-1").rstrip(" \0").strip()
        pos = start + length
    syntax = found.get("transfer_syntax", "")
    if not is_uid(syntax):
        raise BadDicom("the file meta information names no valid transfer syntax", attribute="TransferSyntaxUID")
    warnings = () if declared == pos else ("the group length of the file meta information is wrong or missing",)
    return FileMeta(syntax, found.get("sop_class", ""), found.get("sop_uid", ""), pos, warnings)
