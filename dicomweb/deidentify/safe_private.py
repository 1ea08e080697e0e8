"""Private attributes thought to be safe: the sample list of PS3.15 Table E.3.10-1, by private creator.

Of a group, the elements in the creator's block that are kept. UIDs among them are mapped like all others.
"""

from typing import Final

_LEFT_RIGHT: Final = bytes(range(0x01, 0x17))
SAFE: Final[dict[str, dict[int, bytes]]] = {
    "ELSCINT1": {0x00E1: b"\x21\x50", 0x01E1: b"\x26", 0x01F1: b"\x01\x07\x26\x27"},
    "GEIIS PACS": {0x0903: b"\x10\x11\x12"},
    "GEMS_ACQU_01": {0x0019: b"\x23\x24\x27\x9e"},
    "GEMS_HELIOS_01": {0x0045: b"\x01\x02"},
    "GEMS_PARM_01": {0x0043: b"\x27\x39\x6f"},
    "GEMS_SERS_01": {0x0025: b"\x07"},
    "HOLOGIC, Inc.": {0x7E01: b"\x01\x02\x10\x11\x12"},
    "NQHeader": {0x0099: b"\x01\x02\x04\x05\x10\x20\x21"},
    "NQLeft": {0x0199: _LEFT_RIGHT},
    "NQRight": {0x0299: _LEFT_RIGHT},
    "Philips Imaging DD 001": {0x2001: b"\x03\x04"},
    "Philips MR Imaging DD 001": {0x2005: b"\x0d\x0e"},
    "Philips PET Private Group": {0x7053: b"\x00\x09"},
    "SIEMENS MR HEADER": {0x0019: b"\x0c\x0d\x0e\x27"},
    "SIEMENS SYNGO ULTRA-SOUND TOYON DATA STREAMING": {0x7FD1: b"\x01\x09\x10\x11"},
    "SIEMENS Ultrasound SC2000": {
        0x0119: bytes(range(0x0A)) + b"\x10\x11\x12\x13\x21",
        0x0129: b"\x00" + bytes(range(0x02, 0x0A)) + b"\x10\x11\x12\x20\x21\x22\x29\x30",
        0x0139: b"\x01",
        0x0149: b"\x01\x02\x03",
        0x7FD1: b"\x01\x09\x10\x11",
    },
}


def is_safe(tag: int, creator: str) -> bool:
    """Whether a private attribute of `creator` is on the list; a creator is where any of its group is."""
    elements = SAFE.get(creator, {}).get(tag >> 16)
    if elements is None:
        return False
    return tag & 0xFFFF <= 0xFF or tag & 0xFF in elements
