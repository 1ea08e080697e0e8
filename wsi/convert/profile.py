"""The ICC profile of a slide; without the texts in which scanners leave names and numbers (ICC.1 7.2 and 10)."""

import struct
from pathlib import Path
from typing import Final

from dicomweb.rendered.profiles import standard_profile
from wsi.convert.options import Options
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


def profile_for(source: bytes | None, options: Options) -> tuple[bytes, str]:
    """The profile that the pixels get, and the Color Space that it is of, "" where that has no name.

    What was asked for, else the source's, else sRGB. Raises BadSlide for a file that holds no profile of RGB.
    """
    given = _from_file(Path(options.icc_file)) if options.icc_file else source if options.icc == "source" else None
    if given is not None:
        return nameless(given) if options.deidentify else given, ""
    name = "srgb" if options.icc == "source" else options.icc
    return _of_input(standard_profile(name)), name.upper()


def _of_input(profile: bytes) -> bytes:
    """As a profile of an input device, which the Optical Path Module asks for (PS3.3 C.8.12.5)."""
    return profile[:12] + b"scnr" + profile[16:]


def _from_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            found = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise BadSlide(f"the ICC profile cannot be read: {error.strerror}") from error
    if not _HEAD + 4 <= len(found) <= _MAX_BYTES or found[36:40] != b"acsp" or found[16:20] != b"RGB ":
        raise BadSlide(f"{path.name} is no ICC profile of RGB")
    return found


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
