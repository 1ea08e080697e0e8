"""ICC profiles without the texts in which scanners leave their names and serial numbers (ICC.1 7.2 and 10)."""

import struct
from typing import Final

from wsi.convert.source import BadSlide

_HEAD: Final = 128
_ENTRY: Final = struct.Struct(">4sII")
_MAX_TAGS: Final = 256
_MAX_BYTES: Final = 8 << 20
# What the colours need; all other tags are texts, measurements for the maker, or private.
_COLOUR: Final = frozenset((
    b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC", b"kTRC", b"wtpt", b"bkpt", b"chad", b"lumi",
    b"A2B0", b"A2B1", b"A2B2", b"B2A0", b"B2A1", b"B2A2", b"D2B0", b"D2B1", b"D2B2", b"B2D0", b"B2D1", b"B2D2",
    b"gamt", b"cicp",
))  # fmt: skip
_DESC: Final = b"desc\0\0\0\0\0\0\0\1" + bytes(1 + 4 + 4 + 2 + 1 + 67)
_TEXT: Final = b"text\0\0\0\0\0"
# Of an mluc of one record: language, country, and no characters.
_MLUC: Final = b"mluc\0\0\0\0\0\0\0\1\0\0\0\x0cenUS\0\0\0\0\0\0\0\x1c"


def nameless(profile: bytes) -> bytes:
    """The profile with the tags that make colours, empty texts, and neither maker, model, creator nor date.

    Raises BadSlide for what is no profile.
    """
    if not _HEAD + 4 <= len(profile) <= _MAX_BYTES or profile[36:40] != b"acsp":
        raise BadSlide("the ICC profile is damaged")
    (count,) = struct.unpack_from(">I", profile, _HEAD)
    if count > _MAX_TAGS or _HEAD + 4 + count * _ENTRY.size > len(profile):
        raise BadSlide("the ICC profile is damaged")
    kept: dict[bytes, bytes] = {}
    for number in range(count):
        name, offset, size = _ENTRY.unpack_from(profile, _HEAD + 4 + number * _ENTRY.size)
        if name in _COLOUR:
            if offset + size > len(profile):
                raise BadSlide("the ICC profile is damaged")
            kept[name] = profile[offset : offset + size]
    four = profile[8] >= 4
    kept |= {b"desc": _MLUC, b"cprt": _MLUC} if four else {b"desc": _DESC, b"cprt": _TEXT}
    return _written(profile[:_HEAD], kept)


def _written(head: bytes, tags: dict[bytes, bytes]) -> bytes:
    body, table = b"", struct.pack(">I", len(tags))
    start, places = _HEAD + 4 + len(tags) * _ENTRY.size, dict[bytes, int]()
    for name, data in tags.items():
        if data not in places:  # tags may share their data
            places[data] = start + len(body)
            body += data + bytes(-len(data) % 4)
        table += _ENTRY.pack(name, places[data], len(data))
    date = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    # Size, preferred CMM; date; maker, model; creator, profile ID.
    made = bytearray(head)
    made[0:8] = struct.pack(">I", start + len(body)) + bytes(4)
    made[24:36] = date
    made[48:56] = bytes(8)
    made[80:100] = bytes(20)
    return bytes(made) + table + body
