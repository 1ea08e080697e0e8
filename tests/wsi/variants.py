"""Tiled instances of every kind, from arrays: what a tile shows is known to the last bit."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage, generate_uid

from dicomweb.pixels.encode import encode_frame
from dicomweb.pixels.image import ImagePixel, Pixels
from tests import files

JPEG = "1.2.840.10008.1.2.4.50"
J2K = "1.2.840.10008.1.2.4.90"
HTJ2K = "1.2.840.10008.1.2.4.201"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_XL = "1.2.840.10008.1.2.4.110"
RLE = "1.2.840.10008.1.2.5"
NATIVE = str(ExplicitVRLittleEndian)

Matrix = NDArray[Any]


@functools.lru_cache(32)
def matrix(width: int, height: int, *, seed: int = 1, bits: int = 8, colour: bool = True) -> Matrix:
    """(rows, columns, 3) or (rows, columns): slow gradients with a little noise; no two places are alike.

    Made once for all tests, so nobody writes into it.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    top = (1 << bits) - 1
    planes = [x / width, y / height, (x + y) / (width + height)] if colour else [(2 * x / width + y / height) / 3]
    found = np.stack(
        [np.clip(plane * top * 0.9 + rng.normal(0, top / 60, x.shape), 0, top) for plane in planes], axis=-1
    )
    made = (found if colour else found[..., 0]).astype(np.uint8 if bits == 8 else np.uint16)
    made.setflags(write=False)
    return made


@dataclass
class Place:
    """A frame of a sparse instance: left and top in pixels from 0, its path and its Z offset in µm."""

    left: int
    top: int
    path: str = "1"
    depth: float = 0.0


@dataclass
class Series:
    """Identifiers that the instances of one slide share."""

    study: str = field(default_factory=lambda: str(generate_uid()))
    series: str = field(default_factory=lambda: str(generate_uid()))
    frame_of_reference: str = field(default_factory=lambda: str(generate_uid()))


def tiles_of(array: Matrix, tile: int, fill: int = 255) -> list[Matrix]:
    """The tiles of a matrix row by row, each of full size."""
    height, width = array.shape[:2]
    padded = np.full((-(-height // tile) * tile, -(-width // tile) * tile, *array.shape[2:]), fill, array.dtype)
    padded[:height, :width] = array
    return [
        np.ascontiguousarray(padded[y : y + tile, x : x + tile])
        for y in range(0, height, tile)
        for x in range(0, width, tile)
    ]


def instance(
    series: Series,
    frames: Sequence[Matrix],
    size: tuple[int, int],
    *,
    syntax: str = NATIVE,
    paths: Iterable[str] = ("1",),
    planes: int = 1,
    places: Sequence[Place] | None = None,
    encoded: Sequence[bytes] | None = None,
    offset_table: bool = True,
    **attributes: Any,
) -> Dataset:
    """An instance of `frames` on a total pixel matrix of (width, height): sparse with `places`, else TILED_FULL."""
    rows, columns = frames[0].shape[:2]
    samples = 3 if frames[0].ndim == 3 else 1
    bits = 8 * frames[0].dtype.itemsize
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = VLWholeSlideMicroscopyImageStorage, generate_uid()
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20260110", "101500", "", "1"
    ds.ReferringPhysicianName, ds.PatientName, ds.PatientID = "", "Slide^Variant", "SLIDE-2"
    ds.PatientBirthDate, ds.PatientSex, ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "", "", "SM", 1, 1
    ds.StudyInstanceUID, ds.SeriesInstanceUID = series.study, series.series
    ds.FrameOfReferenceUID, ds.ContainerIdentifier = series.frame_of_reference, "C-2"
    ds.DimensionOrganizationType = "TILED_FULL" if places is None else "TILED_SPARSE"
    ds.NumberOfFrames, ds.Rows, ds.Columns = len(frames), rows, columns
    ds.TotalPixelMatrixColumns, ds.TotalPixelMatrixRows, ds.TotalPixelMatrixFocalPlanes = *size, planes
    ds.ImageOrientationSlide = [0, 1, 0, 1, 0, 0]
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 5.0, 6.0
    ds.TotalPixelMatrixOriginSequence = [origin]
    ds.ImagedVolumeWidth, ds.ImagedVolumeHeight, ds.ImagedVolumeDepth = 0.5, 0.5, 0.001
    ds.SamplesPerPixel = samples
    ds.PhotometricInterpretation = "RGB" if samples == 3 else "MONOCHROME2"
    if samples == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = bits
    ds.HighBit, ds.PixelRepresentation = bits - 1, 0
    ds.LossyImageCompression = "00"
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness, measures.SpacingBetweenSlices = [0.0005, 0.00025], 0.001, 0.002
    shared.PixelMeasuresSequence = [measures]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.OpticalPathSequence = [_path(name) for name in paths]
    ds.NumberOfOpticalPaths = len(ds.OpticalPathSequence)
    if places is not None:
        ds.PerFrameFunctionalGroupsSequence = [_group(place) for place in places]
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    if syntax == NATIVE:
        ds.PixelData = b"".join(frame.tobytes() for frame in frames)
    else:
        ds.PixelData = encapsulate(list(encoded or encode(frames, syntax)), has_bot=offset_table)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    return ds


def encode(frames: Sequence[Matrix], syntax: str) -> list[bytes]:
    """The frames as code streams: JPEG with 4:2:0 chroma, everything else without loss."""
    if syntax == JPEG:
        return [jpeg(frame) for frame in frames]
    rows, columns = frames[0].shape[:2]
    samples, bits = (3 if frames[0].ndim == 3 else 1), 8 * frames[0].dtype.itemsize
    photometric = "RGB" if samples == 3 else "MONOCHROME2"
    image = ImagePixel(rows, columns, samples, bits, bits, False, 0, photometric, len(frames))
    return [encode_frame(syntax, Pixels(frame, photometric), image) for frame in frames]


def jpeg(frame: Matrix, quality: int = 95) -> bytes:
    """A JFIF file."""
    if frame.ndim == 2:
        return bytes(simplejpeg.encode_jpeg(frame[..., None], quality=quality, colorspace="GRAY"))
    return bytes(simplejpeg.encode_jpeg(frame, quality=quality, colorspace="RGB", colorsubsampling="420"))


def file(ds: Dataset) -> bytes:
    """The Part 10 file of an instance."""
    return files.encoded(ds, str(ds.file_meta.TransferSyntaxUID))


def _path(name: str) -> Dataset:
    path, light = Dataset(), Dataset()
    light.CodeValue, light.CodingSchemeDesignator, light.CodeMeaning = "111744", "DCM", "Brightfield illumination"
    path.OpticalPathIdentifier, path.IlluminationTypeCodeSequence = name, [light]
    path.OpticalPathDescription = f"path {name}"
    return path


def _group(place: Place) -> Dataset:
    group, where, path = Dataset(), Dataset(), Dataset()
    where.XOffsetInSlideCoordinateSystem, where.YOffsetInSlideCoordinateSystem = 5.0, 6.0
    where.ZOffsetInSlideCoordinateSystem = place.depth
    where.ColumnPositionInTotalImagePixelMatrix = place.left + 1
    where.RowPositionInTotalImagePixelMatrix = place.top + 1
    group.PlanePositionSlideSequence = [where]
    path.OpticalPathIdentifier = place.path
    group.OpticalPathIdentificationSequence = [path]
    return group
