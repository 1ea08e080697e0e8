"""Makes a whole slide: a TILED_FULL JPEG pyramid whose colour tells the place, one DICOM file a level.

Red grows from left to right, green from top to bottom, and blue says which level a tile comes from; so whoever looks at
a pixel knows where it belongs. `python -m tests.wsi.make_slide DIRECTORY [WIDTH HEIGHT]` writes the files.
"""

import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

BLUE_STEP = 60
_QUALITY = 92


@dataclass(frozen=True)
class Slide:
    """The files of one series, the largest level first."""

    study: str
    series: str
    files: tuple[bytes, ...]
    sizes: tuple[tuple[int, int], ...]


def colour(x: float, y: float, level: int) -> tuple[int, int, int]:
    """The colour at a place, both coordinates from 0 to 1."""
    return round(255 * x), round(255 * y), min(255, 40 + BLUE_STEP * level)


def make_slide(
    width: int = 1500, height: int = 1100, *, tile: int = 256, levels: int = 3, grain: int = 0, **attributes: object
) -> Slide:
    """A pyramid that halves at each level; `attributes` are set on every instance.

    `grain`: up to so much noise in each sample, which makes the tiles as large as those of tissue (23 KB with 10).
    """
    study, series, frame_of_reference = generate_uid(), generate_uid(), generate_uid()
    files, sizes = [], []
    for level in range(levels):
        columns, rows = max(1, width >> level), max(1, height >> level)
        ds = _instance(columns, rows, tile, level, mm_per_pixel=0.0005 * 2**level, grain=grain)
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame_of_reference
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        files.append(_encode(ds))
        sizes.append((columns, rows))
    return Slide(str(study), str(series), tuple(files), tuple(sizes))


def _instance(width: int, height: int, tile: int, level: int, *, mm_per_pixel: float, grain: int) -> Dataset:
    across, down = -(-width // tile), -(-height // tile)
    noise = np.random.default_rng(5).integers(-grain, grain + 1, (tile, tile, 1))
    frames = [_tile(width, height, level, column, row, noise) for row in range(down) for column in range(across)]
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = VLWholeSlideMicroscopyImageStorage, generate_uid()
    ds.ImageType = ["ORIGINAL" if level == 0 else "DERIVED", "PRIMARY", "VOLUME", "NONE" if level == 0 else "RESAMPLED"]
    ds.StudyDate, ds.StudyTime, ds.AcquisitionDateTime = "20260110", "101500", "20260110101500"
    ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = "", "1", ""
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Slide^Sample", "SLIDE-1", "", ""
    ds.Modality, ds.Manufacturer, ds.SeriesDescription = "SM", "Anor", "Place as colour"
    ds.SeriesNumber, ds.InstanceNumber = 1, level + 1
    ds.ContainerIdentifier, ds.IssuerOfTheContainerIdentifierSequence = "C-1", []
    ds.DimensionOrganizationType = "TILED_FULL"
    ds.NumberOfFrames, ds.Rows, ds.Columns = len(frames), tile, tile
    ds.TotalPixelMatrixColumns, ds.TotalPixelMatrixRows, ds.TotalPixelMatrixFocalPlanes = width, height, 1
    ds.NumberOfOpticalPaths = 1
    ds.ImageOrientationSlide = [0, 1, 0, 1, 0, 0]
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 5.0, 5.0
    ds.TotalPixelMatrixOriginSequence = [origin]
    ds.ImagedVolumeWidth, ds.ImagedVolumeHeight = width * mm_per_pixel, height * mm_per_pixel
    ds.ImagedVolumeDepth = 0.001
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "YBR_FULL_422", 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", "ISO_10918_1"
    ds.LossyImageCompressionRatio = round(tile * tile * 3 * len(frames) / sum(map(len, frames)), 2)
    ds.BurnedInAnnotation, ds.SpecimenLabelInImage, ds.VolumetricProperties = "NO", "NO", "VOLUME"
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mm_per_pixel, mm_per_pixel], 0.001
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    ds.SharedFunctionalGroupsSequence = [shared]
    path, light = Dataset(), Dataset()
    light.CodeValue, light.CodingSchemeDesignator, light.CodeMeaning = "111744", "DCM", "Brightfield illumination"
    path.OpticalPathIdentifier, path.IlluminationTypeCodeSequence = "1", [light]
    ds.OpticalPathSequence = [path]
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].VR = "OB"
    return ds


def _tile(width: int, height: int, level: int, column: int, row: int, noise: NDArray[np.int64]) -> bytes:
    """One JPEG as large as `noise`; a dark frame shows where tiles meet, and what lies beyond the matrix is white."""
    tile = len(noise)
    x = np.arange(column * tile, (column + 1) * tile)
    y = np.arange(row * tile, (row + 1) * tile)
    pixels = np.empty((tile, tile, 3), np.uint8)
    pixels[..., 0] = np.clip(255 * (x + 0.5) / width, 0, 255)[None, :]
    pixels[..., 1] = np.clip(255 * (y + 0.5) / height, 0, 255)[:, None]
    pixels[..., 2] = colour(0, 0, level)[2]
    pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    pixels[0, :] = pixels[:, 0] = 30
    pixels[:, x >= width] = 255
    pixels[y >= height, :] = 255
    return bytes(simplejpeg.encode_jpeg(pixels, quality=_QUALITY, colorspace="RGB", colorsubsampling="422"))


def _encode(ds: Dataset) -> bytes:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    out = BytesIO()
    dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def main(directory: str, width: str = "6000", height: str = "4400") -> None:
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(make_slide(int(width), int(height), levels=5).files):
        (target / f"level-{number}.dcm").write_bytes(content)


if __name__ == "__main__":
    main(*sys.argv[1:])
