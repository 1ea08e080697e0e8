"""Segmentations of a slide, made by highdicom."""

from collections.abc import Sequence
from copy import deepcopy
from io import BytesIO
from typing import Any

import highdicom as hd
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from tests.files import new_uid

# L*, a*, b* of the first segment; the others say no colour.
LAB = (55.0, 65.0, 50.0)


def segments(count: int) -> list[hd.seg.SegmentDescription]:
    """Segments 1 to `count`."""
    return [
        hd.seg.SegmentDescription(
            number,
            f"Segment {number}",
            codes.SCT.MorphologicallyAbnormalStructure,
            codes.SCT.Neoplasm,
            "MANUAL",
            display_color=hd.color.CIELabColor(*LAB) if number == 1 else None,
        )
        for number in range(1, count + 1)
    ]


def segmentation(
    image: Dataset, pixels: NDArray[Any], kind: str, *, count: int = 1, full: bool = False, **more: Any
) -> bytes:
    """A file with the segments of a total pixel matrix: (rows, columns), or (rows, columns, segments)."""
    made = hd.seg.Segmentation(
        [image], pixels[None], kind, segments(count), more.pop("series", new_uid()), 400, new_uid(), 1,
        "Anor", "tests", "1", "1", tile_pixel_array=True, series_description="Tumour",
        dimension_organization_type="TILED_FULL" if full else "TILED_SPARSE", omit_empty_frames=not full, **more,
    )  # fmt: skip
    return encoded(made)


def pyramid(images: Sequence[Dataset], pixels: NDArray[Any]) -> list[bytes]:
    """One segmentation for each level of a slide, the finest first, from the matrix of the finest one."""
    made = hd.seg.create_segmentation_pyramid(
        images, [pixels], "BINARY", segments(1), new_uid(), 401, "Anor", "tests", "1", "1"
    )
    return [encoded(each) for each in made]


def encoded(made: Dataset) -> bytes:
    """A Part 10 file, in the transfer syntax that highdicom chose."""
    out = BytesIO()
    if not made.file_meta.TransferSyntaxUID.is_encapsulated:
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.save_as(out, enforce_file_format=True)
    return out.getvalue()


def concatenation(file: bytes, *counts: int) -> list[bytes]:
    """The parts of a native segmentation, of so many frames each; the frames fill whole bytes."""
    whole = dcmread(BytesIO(file))
    assert sum(counts) == whole.NumberOfFrames
    pixels, size = whole.PixelData, whole.Rows * whole.Columns * whole.BitsAllocated // 8
    groups = whole.get("PerFrameFunctionalGroupsSequence")
    uid, source, first, parts = new_uid(), whole.SOPInstanceUID, 0, []
    for number, count in enumerate(counts, 1):
        part = deepcopy(whole)
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = new_uid()
        part.ConcatenationUID, part.SOPInstanceUIDOfConcatenationSource = uid, source
        part.InConcatenationNumber, part.InConcatenationTotalNumber = number, len(counts)
        part.ConcatenationFrameOffsetNumber, part.NumberOfFrames = first, count
        part.PixelData = pixels[size * first : size * (first + count)]
        if groups is not None:
            part.PerFrameFunctionalGroupsSequence = groups[first : first + count]
        parts.append(encoded(part))
        first += count
    return parts
