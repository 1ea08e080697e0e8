"""Encoded data sets for tests, byte by byte: what a writer may do, and what an attacker would."""

import struct
import zlib

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG = "1.2.840.10008.1.2.4.50"
CT = "1.2.840.10008.5.1.4.1.1.2"
RAW_DATA = "1.2.840.10008.5.1.4.1.1.66"
SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
SOP = "1.2.826.0.1.3680043.8.498.1"
STUDY = "1.2.826.0.1.3680043.8.498.2"
SERIES = "1.2.826.0.1.3680043.8.498.3"

LONG = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])
UNDEFINED = 0xFFFFFFFF


def pad(vr: str, value: bytes) -> bytes:
    """To an even length, as the VR wants it."""
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB", "UN") else b" "
    return value


def element(tag: int, vr: str, value: bytes, *, syntax: str = EXPLICIT, length: int | None = None) -> bytes:
    """One element; `length` replaces the true one."""
    size = len(value) if length is None else length
    order = ">" if syntax == BIG_ENDIAN else "<"
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<I", size) + value
    if vr in LONG:
        return head + vr.encode() + b"\0\0" + struct.pack(order + "I", size) + value
    return head + vr.encode() + struct.pack(order + "H", size) + value


def text(tag: int, vr: str, value: str | bytes, *, syntax: str = EXPLICIT) -> bytes:
    """An element of text, padded."""
    return element(tag, vr, pad(vr, value.encode() if isinstance(value, str) else value), syntax=syntax)


def mark(element_number: int, length: int = 0, *, syntax: str = EXPLICIT) -> bytes:
    """An item or delimiter header (FFFE,xxxx)."""
    return struct.pack((">" if syntax == BIG_ENDIAN else "<") + "HHI", 0xFFFE, element_number, length)


def item(content: bytes, *, undefined: bool = False, syntax: str = EXPLICIT) -> bytes:
    """A sequence item."""
    if undefined:
        return mark(0xE000, UNDEFINED, syntax=syntax) + content + mark(0xE00D, syntax=syntax)
    return mark(0xE000, len(content), syntax=syntax) + content


def sequence(
    tag: int,
    items: list[bytes],
    *,
    undefined: bool = False,
    undefined_items: bool = False,
    syntax: str = EXPLICIT,
    vr: str = "SQ",
) -> bytes:
    """A sequence of item contents."""
    content = b"".join(item(one, undefined=undefined_items, syntax=syntax) for one in items)
    if undefined:
        return element(tag, vr, content + mark(0xE0DD, syntax=syntax), syntax=syntax, length=UNDEFINED)
    return element(tag, vr, content, syntax=syntax)


def fragments(frames: list[bytes], table: bytes = b"", *, tag: int = 0x7FE00010) -> bytes:
    """Encapsulated pixel data."""
    content = item(table) + b"".join(item(one) for one in frames) + mark(0xE0DD)
    return element(tag, "OB", content, length=UNDEFINED)


def file_meta(syntax: str = EXPLICIT, sop_class: str = RAW_DATA, sop: str = SOP) -> bytes:
    """Preamble, DICM and group 0002."""
    group = (
        element(0x00020001, "OB", b"\0\1")
        + text(0x00020002, "UI", sop_class)
        + text(0x00020003, "UI", sop)
        + text(0x00020010, "UI", syntax)
        + text(0x00020012, "UI", "1.2.3.4")
    )
    return bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(group))) + group


def identity(syntax: str = EXPLICIT, sop_class: str = RAW_DATA, sop: str = SOP) -> dict[int, bytes]:
    """The attributes that every instance must have."""
    uids = {0x00080016: sop_class, 0x00080018: sop, 0x0020000D: STUDY, 0x0020000E: SERIES}
    return {tag: text(tag, "UI", uid, syntax=syntax) for tag, uid in uids.items()}


def dicom_file(
    elements: dict[int, bytes] | None = None,
    *,
    syntax: str = EXPLICIT,
    sop_class: str = RAW_DATA,
    sop: str = SOP,
    tail: bytes = b"",
) -> bytes:
    """A whole file: the identity plus encoded `elements` by tag (b"" takes one away), in ascending order."""
    parts = identity(syntax, sop_class, sop) | (elements or {})
    body = b"".join(parts[tag] for tag in sorted(parts)) + tail
    if syntax == DEFLATED:
        squeeze = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = squeeze.compress(body) + squeeze.flush()
        body += bytes(len(body) % 2)
    return file_meta(syntax, sop_class, sop) + body


def image_pixels(
    rows: int = 2, columns: int = 3, frames: int = 1, bits: int = 8, samples: int = 1, **kwargs: str
) -> dict[int, bytes]:
    """The Image Pixel attributes without pixel data."""
    short = struct.Struct("<H").pack
    numbers = {
        0x00280002: samples,
        0x00280010: rows,
        0x00280011: columns,
        0x00280100: bits,
        0x00280101: bits,
        0x00280102: bits - 1,
        0x00280103: 0,
    }
    parts = {tag: element(tag, "US", short(value), **kwargs) for tag, value in numbers.items()}
    parts[0x00280004] = text(0x00280004, "CS", "MONOCHROME2" if samples == 1 else "RGB", **kwargs)
    parts[0x00280008] = text(0x00280008, "IS", str(frames), **kwargs)
    return parts


def sparse_slide(frames: int, *, undefined: bool = False) -> bytes:
    """A TILED_SPARSE instance with `frames` frames: functional groups as scanners write them, tiny fragments."""
    columns = 400
    long = struct.Struct("<i").pack

    def group(tag: int, content: bytes) -> bytes:
        return sequence(tag, [content], undefined=undefined, undefined_items=undefined)

    path = group(0x00480207, text(0x00480106, "SH", "1"))
    items = []
    for frame in range(frames):
        row, column = divmod(frame, columns)
        content = group(0x00209111, element(0x00209157, "UL", struct.pack("<2I", column + 1, row + 1)))
        plane = (
            text(0x0040072A, "DS", f"{20.0 - row * 0.1234:.8f}"[:16])
            + text(0x0040073A, "DS", f"{40.0 - column * 0.1234:.8f}"[:16])
            + text(0x0040074A, "DS", "0.0")
            + element(0x0048021E, "SL", long(column * 256 + 1))
            + element(0x0048021F, "SL", long(row * 256 + 1))
        )
        items.append(content + path + group(0x0048021A, plane))
    shared = group(0x00289110, text(0x00180050, "DS", "0.001") + text(0x00280030, "DS", "0.00025\\0.00025"))
    parts = image_pixels(256, 256, frames, 8, 3) | {
        0x00080008: text(0x00080008, "CS", "ORIGINAL\\PRIMARY\\VOLUME\\NONE"),
        0x00209311: text(0x00209311, "CS", "TILED_SPARSE"),
        0x00480006: element(0x00480006, "UL", struct.pack("<I", columns * 256)),
        0x00480007: element(0x00480007, "UL", struct.pack("<I", -(-frames // columns) * 256)),
        0x52009229: sequence(0x52009229, [shared], undefined=undefined, undefined_items=undefined),
        0x52009230: sequence(0x52009230, items, undefined=undefined, undefined_items=undefined),
        0x7FE00010: fragments([b"\xff\xd8\xff\xd9"] * frames),
    }
    return dicom_file(parts, syntax=JPEG, sop_class=SLIDE)
