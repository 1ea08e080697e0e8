"""The scanner: one checked pass over a DICOM file (PS3.10 chapter 7).

It yields the attributes, the finished DICOM JSON, the frame table and the bulk data table. Whatever is structurally
wrong is refused before anything else looks at the bytes; what is legal but unusual is left to pydicom, and the scan
says so.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from dicomweb import json_model
from dicomweb.bulk import BulkTable, bulk_uri
from dicomweb.deflate import DeflatedJson, inflate_dataset
from dicomweb.dictionary import Unsure
from dicomweb.elements import FUNCTIONAL_GROUPS, ElementWalk
from dicomweb.errors import ArchiveError, BadDicom
from dicomweb.frames import FrameTable
from dicomweb.memo import AVAILABLE, Memo
from dicomweb.meta import FileMeta, read_file_meta
from dicomweb.metadata import MetadataBuilder
from dicomweb.pixelinfo import PixelInfo, describe_pixels, refuse_if_cut
from dicomweb.slides.frame_sizes import OtherSizes, other_sizes
from dicomweb.slides.tiled import MATRIX_COLUMNS
from dicomweb.structure import Buffer, ScanLimits
from dicomweb.tags import keyword_of
from dicomweb.uids import is_uid
from dicomweb.values import bulk_reference, first_text
from dicomweb.walker import Walker

__all__ = ["Identifiers", "Memo", "PixelInfo", "Scan", "ScanLimits", "dataset_json", "identifiers", "scan"]

_DEFAULT_LIMITS: Final = ScanLimits()


@dataclass(frozen=True, slots=True)
class Scan:
    """What ingest needs to know of one instance.

    `elements` has the top-level attributes in ascending order of their tags, each as a finished JSON member
    (`b'"00100010":{"vr":"PN",...}'`). In `metadata` only are functional groups and AvailableTransferSyntaxUID, which is
    the syntax of this very file. Offsets count from the start of the file, but from the start of the inflated data set
    when it is `deflated`. `meta_size` is where the data set begins in the file. `fallback` says why pydicom did the
    work, None when it did not. `other_sizes`: what is wrong with the frames of a tiled image, if anything.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    patient_id: str
    transfer_syntax: str
    meta_size: int
    elements: dict[str, bytes]
    metadata: DeflatedJson
    frames: FrameTable | None
    pixel: PixelInfo | None
    bulk: BulkTable
    fallback: str | None
    warnings: tuple[str, ...]
    deflated: bool = False
    other_sizes: OtherSizes | None = None


def scan(buffer: Buffer, limits: ScanLimits = _DEFAULT_LIMITS, *, version: str = "", memo: Memo | None = None) -> Scan:
    """Check and describe the DICOM file in `buffer`, which is read only and in one piece.

    `version` goes into bulk data URIs; `memo` is what earlier scans have learnt. Time is linear in the size of the
    header; memory is a small multiple of it. Raises BadDicom, which names the attribute, or TooLarge.
    """
    if isinstance(buffer, memoryview):
        buffer = _hashable(buffer)
    meta = read_file_meta(buffer)
    coding = meta.coding
    start = meta.size
    deflated = meta.deflated
    if deflated:
        packed = memoryview(buffer)[start:]
        buffer, start = inflate_dataset(packed, limits.max_inflated, limits.max_inflate_ratio), 0
    walk = _walk(buffer, start, meta, limits, version, memo or Memo(), values=not coding.big)
    fallback = "big endian" if coding.big else None
    try:
        walk.walk()
    except Unsure as unsure:
        fallback = str(unsure)
        walk = _walk(buffer, start, meta, limits, version, Memo(), values=False)
        walk.walk()
    if fallback is not None:
        _ask_pydicom(walk)
    return _described(walk, meta, fallback, deflated=deflated)


def _walk(
    buffer: Buffer, start: int, meta: FileMeta, limits: ScanLimits, version: str, memo: Memo, *, values: bool
) -> ElementWalk:
    coding = meta.coding
    available = b'"%08X":{"vr":"UI","Value":["%b"]}' % (AVAILABLE, meta.transfer_syntax.encode())
    walker = Walker(buffer, limits, coding, meta.sop_uid, version, values=values)
    return ElementWalk(buffer, start, coding, limits, walker, memo, MetadataBuilder(available))


def dataset_json(encoded: bytes, transfer_syntax: str, limits: ScanLimits = _DEFAULT_LIMITS) -> bytes:
    """A data set without a file around it, as messages carry it (PS3.7), as one DICOM JSON object.

    Functional groups are left out, and values that a file would serve as bulk data are refused. `transfer_syntax` is
    not a deflated one. Raises BadDicom, which names the attribute, or TooLarge.
    """
    meta = FileMeta(transfer_syntax, "", "", 0, ())
    values = not meta.coding.big
    walk = _walk(encoded, 0, meta, limits, "", Memo(), values=values)
    try:
        walk.walk()
    except Unsure:
        values = False
        walk = _walk(encoded, 0, meta, limits, "", Memo(), values=values)
        walk.walk()
    if not values:
        _ask_pydicom(walk)
    return b"{" + b",".join(text for text in walk.elements.values() if text) + b"}"


@dataclass(frozen=True, slots=True)
class Identifiers:
    """What a file says of itself; "" for what is missing or no UID."""

    sop_class: str = ""
    sop_instance: str = ""
    study: str = ""
    series: str = ""
    patient_id: str = ""


def identifiers(buffer: Buffer, limits: ScanLimits = _DEFAULT_LIMITS) -> Identifiers:
    """The identifiers of a file that `scan` refuses, as far as it can be read."""
    try:
        meta = read_file_meta(buffer)
    except ArchiveError:
        return Identifiers()
    elements: dict[str, bytes] = {}
    if not meta.deflated:
        walk = _walk(buffer, meta.size, meta, limits, "", Memo(), values=True)
        with suppress(ArchiveError, Unsure):
            walk.walk()
        elements = walk.elements

    def uid(key: str, other: str = "") -> str:
        found = first_text(elements.get(key)) or other
        return found if is_uid(found) else ""

    return Identifiers(
        uid("00080016", meta.sop_class),
        uid("00080018", meta.sop_uid),
        uid("0020000D"),
        uid("0020000E"),
        first_text(elements.get("00100020")),
    )


def _hashable(view: memoryview) -> Buffer:
    """A view whose slices can be looked up like bytes; one onto a bytearray never can, and is copied."""
    if isinstance(view.obj, bytes):
        return view.cast("B")
    return bytes(view)


def _ask_pydicom(walk: ElementWalk) -> None:
    """Let pydicom make the JSON of what the walk has accepted; bulk values stay as the walk found them."""
    walker = walk.walker
    bulk = walker.opaque | {
        entry.path: bulk_reference(entry.vr, bulk_uri(walker.sop_uid, entry.path, walker.version))
        for entry in walker.bulk
    }
    data = bytearray(walk.buffer[walk.start : walk.pixel_start])
    before = walk.pixel_end - len(data)
    data += walk.buffer[walk.pixel_end : walk.end]
    for offset, length in walker.undefined_charsets:
        # pydicom would look for a codec of that name.
        at = offset - (walk.start if offset < walk.pixel_start else before)
        data[at : at + length] = b" " * length
    rendered = json_model.members(data, walk.coding, bulk, walker.notes) | bulk
    for key in walk.elements:
        attribute = rendered.get(key)
        if attribute is None:
            walker.notes.add(f"({key[:4]},{key[4:]}) is not shown")
            attribute = b'{"vr":"UN"}'
        walk.elements[key] = b'"%s":%s' % (key.encode(), attribute)
    walk.builder.parts = list(walk.elements.values())


def _described(walk: ElementWalk, meta: FileMeta, fallback: str | None, *, deflated: bool) -> Scan:
    """Check what an instance must have, describe its pixels and finish its metadata."""
    elements = walk.elements
    sop_class, sop_uid = _uid(elements, "00080016"), _uid(elements, "00080018")
    study, series = _uid(elements, "0020000D"), _uid(elements, "0020000E")
    warnings = [*meta.warnings]
    # The data set says what an instance is; software that gives it another UID forgets the meta information at times.
    if meta.sop_uid and meta.sop_uid != sop_uid:
        warnings.append("the file meta information names another SOP Instance UID than the data set")
    if meta.sop_class and meta.sop_class != sop_class:
        warnings.append("the file meta information names another SOP Class UID than the data set")
    pixel: PixelInfo | None = None
    frames: FrameTable | None = None
    other: OtherSizes | None = None
    if walk.pixel is not None:
        pixel, frames, notes = describe_pixels(
            walk.buffer, walk.pixel, elements, meta.transfer_syntax, walk.offset_tables, walk.limits.max_frames
        )
        warnings += notes
        if MATRIX_COLUMNS in elements:
            other = other_sizes(walk.buffer, meta.transfer_syntax, frames, pixel.rows, pixel.columns)
    elif notice := refuse_if_cut(sop_class, elements):
        warnings.append(notice)
    metadata = walk.builder.finish()
    elements.pop(f"{AVAILABLE:08X}", None)  # what the data set says of it counts nowhere
    if fallback is not None:
        for tag in FUNCTIONAL_GROUPS:
            elements.pop(f"{tag:08X}", None)
    return Scan(
        sop_class,
        sop_uid,
        study,
        series,
        first_text(elements.get("00100020")),
        meta.transfer_syntax,
        meta.size,
        elements,
        metadata,
        frames,
        pixel,
        BulkTable.of(walk.walker.bulk),
        fallback,
        (*warnings, *sorted(walk.walker.notes.texts)),
        deflated,
        other,
    )


def _uid(elements: dict[str, bytes], key: str) -> str:
    """The value of a UID that an instance must have."""
    member = elements.get(key)
    if member is None:
        raise BadDicom(f"{keyword_of(key)} is missing", attribute=keyword_of(key))
    value = first_text(member)
    if not is_uid(value):
        raise BadDicom(f"{keyword_of(key)} is not a valid UID", attribute=keyword_of(key))
    return value
