"""Elements of a data set by their path, with the bytes that they were written with (`0040-A730/0/0040-A160`)."""

from collections.abc import Sequence
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag

from dicomweb.errors import BadDicom, NotFound
from dicomweb.media import EXPLICIT_BE, IMPLICIT_LE
from dicomweb.orthanc_tags import Elements
from dicomweb.reencode import UNREADABLE

_PIXELS = 0x7FE00008


def read(data: bytes, transfer_syntax: str) -> Dataset:
    """The data set at the start of `data` up to its pixel data; values stay the bytes that they are.

    Deflated ones are to be inflated before. Raises BadDicom.
    """

    def is_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        return int(tag) >= _PIXELS

    try:
        return read_dataset(
            BytesIO(data), transfer_syntax == IMPLICIT_LE, transfer_syntax != EXPLICIT_BE, stop_when=is_pixels
        )
    except (EOFError, ValueError, OSError, NotImplementedError) as error:
        raise BadDicom("the data set cannot be read") from error


def content(dataset: Dataset, path: Sequence[str]) -> list[str] | bytes:
    """What lies at a path of tags and item numbers: tags of a data set, numbers of items, or the bytes of a value.

    Raises NotFound.
    """
    if not path:
        return [listed(tag) for tag in sorted(dataset.keys()) if tag.element]
    tag = Tag(int(path[0], 16))
    if tag not in dataset:
        raise NotFound("the data set has no such element")
    raw = dataset.get_item(tag)
    if not _is_sequence(dataset, tag):
        value = getattr(raw, "value", b"") or b""
        return value if isinstance(value, bytes) else str(value).encode()
    items = dataset[tag].value
    if len(path) == 1:
        return [str(number) for number in range(len(items))]
    number = int(path[1]) if path[1].isascii() and path[1].isdecimal() and len(path[1]) < 10 else len(items)
    if number >= len(items):
        raise NotFound("the sequence has no such item")
    return content(items[number], path[2:])


def _is_sequence(dataset: Dataset, tag: BaseTag) -> bool:
    """Whether the element has items; one whose value cannot be read as its VR says is its bytes."""
    try:
        return dataset[tag].VR == "SQ"
    except UNREADABLE:
        return False


def listed(tag: BaseTag) -> str:
    """`0010-0010`."""
    return f"{tag.group:04x}-{tag.element:04x}"


def header_elements(head: bytes) -> Elements:
    """The file meta information at the start of a file (PS3.10 7.1), as DICOM JSON without its version."""
    meta = read(head[132:], "")
    found = {tag: element for tag, element in meta.to_json_dict().items() if tag.startswith("0002")}
    found.pop("00020001", None)
    return found
