"""Native syntaxes as Explicit VR Little Endian, the only one of them that may leave over the web (PS3.18 8.7.3).

Over associations Implicit VR Little Endian leaves as well, which every application entity takes (PS3.5 10.1).

Only the header goes through pydicom; pixel data are passed on, or byte-swapped piece by piece. Every function takes
bytes that the scanner accepted before, so that nesting and lengths are known to be sane.
"""

import struct
import zlib
from array import array
from io import BytesIO
from typing import Final

from pydicom import DataElement, Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.errors import BytesLengthException
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite, write_data_element
from pydicom.uid import UID

from dicomweb.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from dicomweb.media import EXPLICIT_LE, IMPLICIT_LE

# What pydicom raises for a value field that is no value of its VR, or no sequence of items.
UNREADABLE: Final = (
    ArithmeticError, AttributeError, BytesLengthException, EOFError, NotImplementedError, OSError, TypeError,
    ValueError, struct.error,
)  # fmt: skip
_SWAP_TYPE = {2: "H", 4: "I", 8: "Q"}
_WORDS = frozenset(("OW", "OF", "OL", "OD", "OV"))
_PIXEL_HEAD = struct.Struct("<HH2sHL")
_IMPLICIT_HEAD = struct.Struct("<HHL")


def header_as_native(head: bytes, target: str) -> bytes:
    """A Part 10 file that ends before its pixel data (or has none), rewritten as explicit or implicit little endian."""
    dataset = dcmread(BytesIO(head))
    implicit, little = dataset.original_encoding
    if (implicit, little) != (target == IMPLICIT_LE, True):
        keep_unreadable(dataset)
    if not little:
        swap_words(dataset)
    dataset.file_meta.TransferSyntaxUID = UID(target)
    name_writer(dataset.file_meta)
    out = BytesIO()
    dcmwrite(out, dataset, implicit_vr=target == IMPLICIT_LE, little_endian=True, enforce_file_format=True)
    return out.getvalue()


def name_writer(meta: FileMetaDataset) -> None:
    """Say in the file meta information that this software wrote the file (PS3.10 7.1)."""
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION


def keep_unreadable(dataset: Dataset) -> None:
    """Make what is no value of its VR an unknown one (UN, PS3.5 6.2.2), which is written with the bytes that it has.

    pydicom parses every value that it writes in another encoding, and one that it cannot parse would keep the whole
    instance back. Metadata show such values as UN too.
    """
    # As they were read: to know what one element is, pydicom parses others.
    raws = [(tag, dataset.get_item(tag, keep_deferred=True)) for tag in list(dataset.keys())]
    for tag, raw in raws:
        try:
            element = dataset[tag]
            if element.VR != "SQ":
                write_data_element(_scratch(), element)
        except UNREADABLE:
            value = raw.value or b""
            if not isinstance(value, bytes):
                raise
            element = DataElement(tag, "OB", value)
            element.VR = "UN"  # afterwards: it would be taken for the VR that the dictionary says
            dataset[tag] = element
        if element.VR == "SQ":
            for item in element.value:
                keep_unreadable(item)


def _scratch() -> DicomBytesIO:
    target = DicomBytesIO()
    target.is_implicit_VR, target.is_little_endian = False, True
    return target


def swap_words(dataset: Dataset) -> None:
    """Turn the words of a dataset that was read as big endian round: pydicom writes binary values as it read them."""
    for element in dataset.iterall():
        word = word_size(element.VR)
        if element.VR in _WORDS and element.value and len(element.value) % word == 0:
            element.value = swapped(element.value, word)


def pixel_head(vr: str, length: int, target: str = EXPLICIT_LE) -> bytes:
    """The header of a native (7FE0,0010) element; `length` is even."""
    if target == IMPLICIT_LE:
        return _IMPLICIT_HEAD.pack(0x7FE0, 0x0010, length)
    return _PIXEL_HEAD.pack(0x7FE0, 0x0010, vr.encode(), 0, length)


def word_size(vr: str) -> int:
    """How many bytes of a big endian value are swapped together (PS3.5 7.3): 1 when none are."""
    return 1 if vr == "OB" else {"OF": 4, "OL": 4, "OD": 8, "OV": 8}.get(vr, 2)


def pixel_word(vr: str, bits_allocated: int) -> int:
    """The same for pixel data: a sample of more than 16 bits in OW is swapped as one (as every writer does it)."""
    word = word_size(vr)
    return max(word, bits_allocated // 8) if word == 2 else word


def swapped(data: bytes, word: int) -> bytes:
    """`data` with the bytes of each word reversed; its length is a multiple of `word`."""
    if word == 1:
        return data
    words = array(_SWAP_TYPE[word], data)
    words.byteswap()
    return words.tobytes()


class Inflater:
    """A deflated dataset (PS3.5 A.5) inflated piece by piece."""

    def __init__(self, piece: int = 1 << 20) -> None:
        self._inflater = zlib.decompressobj(-15)
        self._piece = piece

    def feed(self, chunk: bytes) -> list[bytes]:
        """What `chunk` inflates to; the caller keeps chunks small (the scanner has bounded the ratio)."""
        pieces = []
        data = self._inflater.decompress(chunk, self._piece)
        while data:
            pieces.append(data)
            data = self._inflater.decompress(self._inflater.unconsumed_tail, self._piece)
        return pieces
