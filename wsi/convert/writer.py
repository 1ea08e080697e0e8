"""One instance, written frame by frame: offset tables and ratio are filled in when all frames are there."""

import io
import os
import struct
from array import array
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID

from dicomweb.media import EXPLICIT_LE
from dicomweb.meta import read_file_meta
from dicomweb.pixels.header import ENCAPSULATED_HEAD, ENCAPSULATED_TAIL, item_head, with_transfer_syntax
from dicomweb.pixels.image import ImagePixel
from dicomweb.pixels.syntaxes import SYNTAXES
from wsi.convert.options import OffsetTable
from wsi.convert.source import BadSlide

_BASIC_MAX: Final = (1 << 32) - 2  # what 32 bits of an offset, or of a native length, can say
_RATIO_DIGITS: Final = 12
_EOT: Final = b"\xe0\x7f\x01\x00OV\x00\x00"
_EOT_LENGTHS: Final = b"\xe0\x7f\x02\x00OV\x00\x00"
_NATIVE: Final = b"\xe0\x7f\x10\x00"


class InstanceWriter:
    """A Part 10 file. `add` each frame in order, then `finish`; frames that were added can be read back.

    `lossy`: the (method, ratio) that the pixels went through before; `most`: bytes that all frames have at most.
    `ratio`: of the compression here, where these are not all the frames that it is to be said of.
    """

    def __init__(
        self,
        path: Path,
        dataset: Dataset,
        syntax: str,
        pixel: ImagePixel,
        *,
        offsets: OffsetTable,
        most: int,
        lossy: tuple[tuple[str, float], ...] = (),
        ratio: float = 0.0,
    ) -> None:
        self.path = path
        self.syntax = syntax
        self.pixel = pixel
        self._count = pixel.number_of_frames
        self._raw = pixel.decoded_bytes * self._count
        self._encapsulated = syntax != EXPLICIT_LE
        self.table: OffsetTable = "extended" if offsets == "basic" and most > _BASIC_MAX else offsets
        if not self._encapsulated and self._raw > _BASIC_MAX:
            raise BadSlide("an instance without compression has at most 4 GiB: choose a format that compresses")
        self.lossy = lossy
        self._said = ratio
        self._own = SYNTAXES[syntax].method if self._encapsulated else ""
        self.dataset = dataset
        self._places = array("Q")
        self.sizes = array("Q")
        self._file = path.open("w+b")
        self._header = self._head(1.0)
        self._file.write(self._header)
        self._start = self._at = len(self._header)

    def _head(self, ratio: float) -> bytes:
        """Everything up to the first frame. Its length does not depend on ratio and offsets."""
        ds = self.dataset
        methods = [*(name for name, _ in self.lossy), *([self._own] if self._own else [])]
        ratios = [*(value for _, value in self.lossy), *([ratio] if self._own else [])]
        ds.LossyImageCompression = "01" if methods else "00"
        if methods:
            ds.LossyImageCompressionMethod = methods
            ds.LossyImageCompressionRatio = [_fixed(value) for value in ratios]
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = UID(EXPLICIT_LE)  # pydicom writes no other that it does not know
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        out = io.BytesIO()
        dcmwrite(out, ds, implicit_vr=False, little_endian=True, enforce_file_format=True)
        data = out.getvalue()
        meta = read_file_meta(data).size
        return with_transfer_syntax(data[:meta], self.syntax) + data[meta:] + self._pixel_head()

    def _pixel_head(self) -> bytes:
        if not self._encapsulated:
            vr = b"OB" if self.pixel.bits_allocated == 8 else b"OW"
            return _NATIVE + vr + b"\0\0" + struct.pack("<I", self._raw + self._raw % 2)
        if self.table == "empty":
            return ENCAPSULATED_HEAD
        if self.table == "extended":
            size = struct.pack("<I", 8 * self._count)
            return _EOT + size + _full(self._offsets(), self._count, "Q") + _EOT_LENGTHS + size + _full(
                self.sizes, self._count, "Q"
            ) + ENCAPSULATED_HEAD  # fmt: skip
        without_item = ENCAPSULATED_HEAD[:-8]
        return without_item + item_head(4 * self._count) + _full(array("I", self._offsets()), self._count, "I")

    def _offsets(self) -> "array[int]":
        """Of each frame's item, from the first one (PS3.5 A.4)."""
        first = self._places[0] if self._places else 0
        return array("Q", (place - first for place in self._places))

    def add(self, frame: bytes) -> None:
        """The next frame."""
        if not self._encapsulated:
            self._places.append(self._at)
            self.sizes.append(len(frame))
            self._put(frame)
            return
        padded = frame + b"\0" if len(frame) % 2 else frame
        self._places.append(self._at + 8)
        self.sizes.append(len(padded))
        self._put(item_head(len(padded)) + padded)
        if self.table == "basic" and self._at - self._start > _BASIC_MAX:
            raise BadSlide("the frames take more than 4 GiB: ask for the extended offset table")

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._at += len(data)

    def frame(self, index: int) -> bytes:
        """A frame that was added."""
        self._file.flush()
        return os.pread(self._file.fileno(), self.sizes[index], self._places[index])

    def finish(self) -> None:
        """Complete the file; frames can be read until `close`."""
        if len(self.sizes) != self._count:
            raise BadSlide(f"{len(self.sizes)} of {self._count} frames were made")
        if self._encapsulated:
            self._put(ENCAPSULATED_TAIL)
        elif self._raw % 2:
            self._put(b"\0")
        header = self._head(self.ratio)
        assert len(header) == len(self._header)
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()

    @property
    def ratio(self) -> float:
        """Pixels to bytes of the frames."""
        return self._said or self._raw / max(1, sum(self.sizes))

    @property
    def size(self) -> int:
        """Bytes of the file so far."""
        return self._at

    @property
    def each(self) -> int:
        """Bytes that a frame takes beside its own: its item, and its entries in the offset table."""
        return 8 + {"basic": 4, "extended": 16, "empty": 0}[self.table] if self._encapsulated else 0

    @property
    def fixed(self) -> int:
        """Bytes that a file without any frame would have."""
        entries = (self.each - 8) * self._count if self._encapsulated else 0
        return len(self._header) - entries + len(ENCAPSULATED_TAIL)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _full(values: Any, count: int, kind: str) -> bytes:
    """`count` little-endian numbers; those that are not known yet are 0."""
    return b"".join((array(kind, values).tobytes(), bytes((count - len(values)) * (4 if kind == "I" else 8))))


def _fixed(ratio: float) -> str:
    """A decimal string of always the same length."""
    return f"{ratio:.10f}"[:_RATIO_DIGITS].ljust(_RATIO_DIGITS, "0")
