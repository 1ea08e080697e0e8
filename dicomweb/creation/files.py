"""The files of new instances (PS3.10 7.1): explicit VR little endian, or JPEG baseline as it was sent."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dicomweb.creation.content import DOCUMENTS, JPEG, Content, jpeg_photometric
from dicomweb.creation.request import Attributes, Creation
from dicomweb.edit.encoding import UTF_8, Value, encode, writing_codec
from dicomweb.edit.file_meta import file_meta
from dicomweb.edit.parsing import parse_value
from dicomweb.edit.subject import CHARACTER_SET, PATIENT_ID, SERIES, SOP_CLASS, SOP_INSTANCE, STUDY
from dicomweb.errors import OverridesParent
from dicomweb.media import EXPLICIT_LE
from dicomweb.pixels.header import ENCAPSULATED_HEAD, ENCAPSULATED_TAIL, item_head
from dicomweb.pixels.syntaxes import JPEG_BASELINE
from dicomweb.reencode import pixel_head
from dicomweb.structure import EXPLICIT_LITTLE, name_of
from dicomweb.tags import Level

Piece = bytes | memoryview

_SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
_PDF: Final = "application/pdf"
_PIXEL_DATA: Final = 0x7FE00010
_MODALITY, _CONVERSION_TYPE, _DOCUMENT = 0x00080060, 0x00080064, 0x00420011
# Dates and times of each level, which are now for what is new (PS3.3 C.7.2.1, C.7.3.1, C.7.4.1, C.7.6.1, C.12.1).
_MOMENTS: Final[Mapping[Level, tuple[int, ...]]] = {
    Level.STUDY: (0x00080020, 0x00080030),
    Level.SERIES: (0x00080021, 0x00080031),
    Level.INSTANCE: (0x00080012, 0x00080013, 0x00080022, 0x00080032, 0x00080023, 0x00080033),
}
_UIDS: Final = {Level.STUDY: STUDY, Level.SERIES: SERIES}
_LEVELS: Final = tuple(Level)


def fresh(parent: Level | None, moment: datetime, new_uid: Callable[[], str], patient_id: str) -> Attributes:
    """What is made for instances whose parent is at that level: identifiers, dates and times of the levels below."""
    found = {CHARACTER_SET: _text("CS", UTF_8.decode())}
    below = _LEVELS if parent is None else _LEVELS[_LEVELS.index(parent) + 1 :]
    if parent is None:
        found[PATIENT_ID] = _text("LO", patient_id)
    for level in below:
        if level in _UIDS:
            found[_UIDS[level]] = _text("UI", new_uid())
        for date, time in zip(*[iter(_MOMENTS.get(level, ()))] * 2, strict=True):
            found[date] = _text("DA", f"{moment:%Y%m%d}")
            found[time] = _text("TM", f"{moment:%H%M%S.%f}")
    return found


def inherited(parent: Mapping[str, Any], creation: Creation) -> Attributes:
    """The attributes of the parent (DICOM JSON). Raises OverridesParent where the request has others, unless forced."""
    found = {int(tag, 16): parse_value(int(tag, 16), element) for tag, element in parent.items()}
    if creation.force:
        return found
    for given in (creation.attributes, *(each.attributes for each in creation.instances)):
        for tag in given.keys() & found.keys():
            if tag != PATIENT_ID or given[tag].values != found[tag].values:
                raise OverridesParent(
                    f"{name_of(tag)} is a value of the parent, which Tags would overwrite", attribute=name_of(tag)
                )
    return found


def pieces(
    creation: Creation, number: int, base: Attributes, sop_uid: str, pixels: NDArray[Any] | None, *, new_series: bool
) -> list[Piece]:
    """The file of the instance with that index, in order.

    `base`: what is made or inherited; `pixels`: those of a picture, (rows, columns) or (rows, columns, 3), where they
    are not encapsulated; `new_series`: the series is as long as the request says. Raises BadRequest, BadDicom.
    """
    new = creation.instances[number]
    found = {SOP_INSTANCE: _text("UI", sop_uid)} | base | creation.attributes | new.attributes
    if new.content is None:
        _complete(found, DOCUMENTS[_PDF].sop_class if _DOCUMENT in found else _SECONDARY_CAPTURE, {})
    elif new.content.image is None:
        _document(found, new.content)
    else:
        _picture(found, new.content, encapsulated=pixels is None)
    if creation.several:
        found |= _numbers(number + 1, len(creation.instances), new_series=new_series)
    encapsulated = new.content is not None and new.content.image is not None and pixels is None
    meta = file_meta(_of(found, SOP_CLASS), _of(found, SOP_INSTANCE), JPEG_BASELINE if encapsulated else EXPLICIT_LE)
    codec = writing_codec("\\".join(found[CHARACTER_SET].values).encode("ascii", "replace"))
    head: list[bytes] = []
    tail: list[bytes] = []
    for tag in sorted(found):
        (head if tag < _PIXEL_DATA else tail).append(encode(tag, found[tag], EXPLICIT_LITTLE, codec))
    body: list[Piece] = []
    if encapsulated:
        assert new.content is not None
        body = _fragment(new.content.data)
    elif pixels is not None:
        body = _native(pixels)
    return [meta + b"".join(head), *body, b"".join(tail)]


def _picture(found: Attributes, content: Content, *, encapsulated: bool) -> None:
    image = content.image
    assert image is not None
    _complete(found, _SECONDARY_CAPTURE, {_MODALITY: "OT", _CONVERSION_TYPE: "WSD"})
    photometric = jpeg_photometric(content.data) if encapsulated else image.photometric
    numbers = {
        0x00280002: image.samples, 0x00280010: image.rows, 0x00280011: image.columns, 0x00280100: image.bits_allocated,
        0x00280101: image.bits_stored, 0x00280102: image.bits_stored - 1, 0x00280103: 0,
    }  # fmt: skip
    if image.samples > 1:
        numbers[0x00280006] = image.planar
    found |= {tag: _text("US", str(each)) for tag, each in numbers.items()}
    found[0x00280004] = _text("CS", photometric)
    if content.media_type == JPEG:  # PS3.3 C.7.6.1.1.5
        ratio = f"{image.decoded_bytes / len(content.data):.4g}"
        found |= {
            0x00282110: _text("CS", "01"), 0x00282112: _text("DS", ratio), 0x00282114: _text("CS", "ISO_10918_1"),
        }  # fmt: skip


def _document(found: Attributes, content: Content) -> None:
    kind = DOCUMENTS[content.media_type]
    more = {_CONVERSION_TYPE: "WSD"} if content.media_type == _PDF else {}
    _complete(found, kind.sop_class, {_MODALITY: kind.modality} | more)
    found[_DOCUMENT] = Value("OB", data=content.data)
    found[0x00420012] = _text("LO", content.media_type)
    found[0x00420015] = _text("UL", str(len(content.data)))


def _complete(found: Attributes, sop_class: str, codes: Mapping[int, str]) -> None:
    """Add what an instance of its kind must have, where the request does not say it."""
    found.setdefault(SOP_CLASS, _text("UI", sop_class))
    for tag, code in codes.items():
        found.setdefault(tag, _text("CS", code))


def _numbers(number: int, count: int, *, new_series: bool) -> Attributes:
    found = {0x00200013: _text("IS", str(number)), 0x00541330: _text("US", str(number))}
    if new_series:
        found |= {0x00200105: _text("IS", "1"), 0x00201002: _text("IS", str(count))}
    return found


def _native(pixels: NDArray[Any]) -> list[Piece]:
    little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    value = memoryview(little.data).cast("B")
    odd = len(value) % 2
    return [pixel_head("OB" if pixels.itemsize == 1 else "OW", len(value) + odd), value, b"\0" * odd]


def _fragment(data: bytes) -> list[Piece]:
    odd = len(data) % 2
    return [ENCAPSULATED_HEAD + item_head(len(data) + odd), data, b"\0" * odd + ENCAPSULATED_TAIL]


def _text(vr: str, text: str) -> Value:
    return Value(vr, (text,))


def _of(found: Attributes, tag: int) -> str:
    return "".join(found[tag].values)
