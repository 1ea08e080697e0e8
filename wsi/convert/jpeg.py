"""JPEG and JPEG 2000 tiles of TIFF files as frames of DICOM: the same code stream with a head of its own (lossless)."""

import struct
from dataclasses import dataclass
from typing import Final

from dicomweb.errors import BadPixels
from dicomweb.pixels.codestream import jpeg2000_size, with_adobe_marker
from dicomweb.pixels.syntaxes import JPEG_BASELINE
from wsi.convert.source import BadSlide, Copied

JPEG_2000: Final = "1.2.840.10008.1.2.4.91"

_SOF0: Final = 0xC0
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOFn; the three are tables and a reserved one
_SOS: Final = 0xDA
_EOI: Final = b"\xff\xd9"
_APP0, _APP14, _APP15, _COM = 0xE0, 0xEE, 0xEF, 0xFE
_HEADS: Final = 8
_TAIL: Final = 64
_COD: Final = b"\xff\x52"
_SOT: Final = b"\xff\x90"
_COM_2000: Final = b"\xff\x64"
_MAX_HEAD: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class JpegHead:
    """What stands before the entropy-coded data. `kept`: its segments without application data and comments."""

    process: int
    size: tuple[int, int, int, int]  # rows, columns, components, bits
    names: bytes
    adobe: int | None
    jfif: bool
    kept: bytes
    end: int


def jpeg_head(data: bytes) -> JpegHead:
    """Walk the segments up to and including the start of the scan (ITU-T T.81 B.2). Raises BadSlide."""
    if data[:2] != b"\xff\xd8":
        raise BadSlide("the tile is no JPEG stream")
    at, kept, found = 2, b"", None
    adobe, jfif = None, False
    while at + 4 <= min(len(data), _MAX_HEAD) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : end]
        if marker == _APP14 and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker == _APP0 and body[:4] == b"JFIF":
            jfif = True
        elif marker in _FRAMES and len(body) >= 6:
            bits, rows, columns, count = struct.unpack_from(">BHHB", body)
            found = marker, (rows, columns, count, bits), body[6 : 6 + 3 * count : 3]
        if not (_APP0 <= marker <= _APP15 or marker == _COM):
            kept += data[at:end]
        at = end
        if marker == _SOS:
            if found is None:
                break
            return JpegHead(*found, adobe, jfif, kept, at)
    raise BadSlide("the tile's JPEG stream has no start of frame and scan")


class JpegTiles:
    """The tiles of one level, each checked against the first: `rgb` as the TIFF file says that its samples are.

    The head of each frame is written anew: the tables that the file keeps apart, the tile's own segments, an Adobe
    marker where the samples are RGB, and neither comments nor application data, in which scanners leave names. Heads
    repeat, so that one that was looked at is only compared.
    """

    def __init__(self, tables: bytes, rows: int, columns: int, samples: int, *, rgb: bool) -> None:
        self._tables = _table_segments(tables)
        self._size = (rows, columns, samples, 8)
        self._rgb = rgb
        self._heads: list[tuple[bytes, bytes]] = []

    def copied(self, data: bytes) -> Copied | None:
        """How such tiles can be frames; None where they cannot: then they are decoded."""
        head = jpeg_head(data)
        says_rgb = head.adobe == 0 if head.adobe is not None else None
        contradicts = head.size[2] == 3 and says_rgb is not None and says_rgb != self._rgb
        if head.process != _SOF0 or head.size[3] != 8 or contradicts or (head.names == b"RGB" and not self._rgb):
            return None
        photometric = "MONOCHROME2" if head.size[2] == 1 else "RGB" if self._rgb else "YBR_FULL_422"
        return Copied(JPEG_BASELINE, photometric)

    def frame(self, data: bytes) -> bytes:
        """The tile as a whole JPEG stream. Raises BadSlide for one that is cut, or not like the others."""
        known = next((pair for pair in self._heads if data.startswith(pair[0])), None)
        if known is None:
            known = self._look(data)
        if _EOI not in data[-_TAIL:]:
            raise BadSlide("the tile's JPEG stream is cut: it has no end marker")
        return known[1] + data[len(known[0]) :]

    def _look(self, data: bytes) -> tuple[bytes, bytes]:
        head = jpeg_head(data)
        if head.process != _SOF0 or head.size != self._size:
            rows, columns, samples, bits = head.size
            raise BadSlide(
                f"the tile's JPEG stream has {columns} x {rows} pixels of {samples} samples with {bits} bits, process "
                f"{head.process - _SOF0}; the level's tiles have {self._size[1]} x {self._size[0]} of {self._size[2]}"
            )
        made = b"\xff\xd8" + self._tables + head.kept
        if self._rgb and head.size[2] == 3:
            made = with_adobe_marker(made)
        self._heads.append((data[: head.end], made))
        del self._heads[:-_HEADS]
        return self._heads[-1]


def _table_segments(tables: bytes) -> bytes:
    """The segments of JPEGTables (TIFF 6.0 supplement 2): an abbreviated stream of tables between SOI and EOI."""
    if not tables:
        return b""
    kept, at = b"", 2
    while at + 4 <= len(tables) and tables[at] == 0xFF and tables[at : at + 2] != _EOI:
        end = at + 2 + int.from_bytes(tables[at + 2 : at + 4], "big")
        if not (_APP0 <= tables[at + 1] <= _APP15 or tables[at + 1] == _COM):
            kept += tables[at:end]
        at = end
    if tables[:2] != b"\xff\xd8" or tables[at : at + 2] != _EOI:
        raise BadSlide("the JPEG tables of the file are damaged")
    return kept


class Jpeg2000Tiles:
    """Tiles that are bare JPEG 2000 code streams of RGB, or of one component.

    `syntax`: how they are called; without it the one that may be lossy, for nobody knows what came before.
    """

    def __init__(self, rows: int, columns: int, samples: int, syntax: str = JPEG_2000) -> None:
        self._size = (rows, columns, samples)
        self._syntax = syntax

    def copied(self, data: bytes) -> Copied | None:
        """How such tiles can be frames; None where they cannot: then they are decoded."""
        if data[:4] != b"\xff\x4f\xff\x51":
            return None
        if self._size[2] == 1:
            return Copied(self._syntax, "MONOCHROME2")
        at = data.find(_COD, 0, 1024)  # ITU-T T.800 A.6.1: ... multiple component transform, ..., transformation
        if at < 0 or len(data) < at + 14:
            return None
        transformed, reversible = data[at + 8], data[at + 13] == 1
        return Copied(self._syntax, ("YBR_RCT" if reversible else "YBR_ICT") if transformed else "RGB")

    def frame(self, data: bytes) -> bytes:
        """The tile. Raises BadSlide for one that is not like the others."""
        try:
            size = jpeg2000_size(data)
        except BadPixels as error:
            raise BadSlide(f"{error.message} (a tile)") from None
        if (size.rows, size.columns, size.samples) != self._size or data[:4] != b"\xff\x4f\xff\x51":
            raise BadSlide(f"the tile's code stream has {size.columns} x {size.rows} pixels, unlike the level's tiles")
        if _EOI not in data[-_TAIL:]:
            raise BadSlide("the tile's code stream is cut: it has no end marker")
        return _without_comments(data)


def _without_comments(data: bytes) -> bytes:
    """A JPEG 2000 code stream without the comments of its main header (ITU-T T.800 A.9.2)."""
    at, kept = 2, data[:2]
    while data[at : at + 2] not in (_SOT, b""):
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end < at + 4 or end > len(data):
            raise BadSlide("the tile's code stream has a damaged header")
        if data[at : at + 2] != _COM_2000:
            kept += data[at:end]
        at = end
    return kept + data[at:]
