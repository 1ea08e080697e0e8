"""File meta information, written anew (PS3.10 7.1): who wrote the file is no longer who wrote its source."""

from struct import Struct
from typing import Final

from dicomweb.edit.encoding import element
from dicomweb.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from dicomweb.structure import EXPLICIT_LITTLE

_PREAMBLE: Final = b"\0" * 128 + b"DICM"


def file_meta(sop_class: str, sop_uid: str, transfer_syntax: str) -> bytes:
    """Preamble, prefix and group 0002; nothing of the source's private or application entity information."""
    group = b"".join(
        (
            element(0x00020001, "OB", b"\0\1", EXPLICIT_LITTLE),
            element(0x00020002, "UI", sop_class.encode(), EXPLICIT_LITTLE),
            element(0x00020003, "UI", sop_uid.encode(), EXPLICIT_LITTLE),
            element(0x00020010, "UI", transfer_syntax.encode(), EXPLICIT_LITTLE),
            element(0x00020012, "UI", IMPLEMENTATION_CLASS_UID.encode(), EXPLICIT_LITTLE),
            element(0x00020013, "SH", IMPLEMENTATION_VERSION.encode(), EXPLICIT_LITTLE),
        )
    )
    return _PREAMBLE + element(0x00020000, "UL", Struct("<I").pack(len(group)), EXPLICIT_LITTLE) + group
