"""Frames of native DICOM files as the renderer takes them, without a server."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRBigEndian

from dicomweb.pixels.image import ImagePixel, Pixels
from dicomweb.pixels.native import native_pixels
from dicomweb.reencode import swapped
from dicomweb.rendered.image import Source, picture
from dicomweb.rendered.parameters import Rendering

PLAIN = Rendering()


def sample(name: str) -> Path:
    """A file of pydicom or pydicom-data."""
    found = pydicom.data.get_testdata_file(name, download=False)
    assert found, f"{name} is not in pydicom or pydicom-data"
    return Path(str(found))


def source_of(ds: Dataset, frame: int = 1) -> Source:
    """One frame of a native file; every binary value is inline."""
    tag = next(tag for tag in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if tag in ds)
    raw = ds[tag].value
    ds[tag].value = b"\0\0"
    dataset = ds.to_json_dict()
    ds[tag].value = raw
    image = ImagePixel.of(dataset)
    big = ds.file_meta.get("TransferSyntaxUID") == ExplicitVRBigEndian
    data = swapped(raw, 2) if big and image.bits_allocated == 16 else raw
    size = image.rows * image.columns * image.samples * image.bits_allocated
    if image.photometric == "YBR_FULL_422":
        size = size // 3 * 2
    begin = size * (frame - 1)
    if image.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[begin : begin + size]
        pixels = Pixels(bits.reshape(image.shape), image.photometric)
    else:
        pixels = native_pixels(image, data[begin // 8 : (begin + size) // 8])
    return Source(pixels, image, dataset, frame, {})


def shown(ds: Dataset, wanted: Rendering = PLAIN, frame: int = 1) -> np.ndarray:
    """The picture of one frame."""
    return picture(source_of(ds, frame), wanted)[0]


def shades(values: Any, wanted: Rendering = PLAIN, *, bits: int = 16, **attributes: Any) -> list[int]:
    """The shades of stored values: an image of one row. Attributes by keyword; `signed` from the values' type."""
    array = np.asarray(values)
    ds = Dataset()
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, array.size, 1, "MONOCHROME2"
    if array.dtype.kind == "f":
        ds.FloatPixelData = b""
        kind = ImagePixel(1, array.size, 1, 8 * array.itemsize, 8 * array.itemsize, False, 0, "MONOCHROME2", 1, "float")
    else:
        ds.BitsAllocated, ds.BitsStored = 8 * array.itemsize, bits
        ds.PixelRepresentation = int(array.dtype.kind == "i")
        ds.PixelData = b"\0\0"
        kind = None
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    dataset = ds.to_json_dict()
    image = replace(kind, photometric=ds.PhotometricInterpretation) if kind else ImagePixel.of(dataset)
    source = Source(Pixels(array.reshape(1, -1), image.photometric), image, dataset, 1, {})
    return [int(value) for value in picture(source, wanted)[0][0]]


def opened(data: bytes) -> np.ndarray:
    """The pixels of an image file."""
    return np.asarray(Image.open(BytesIO(data)))


def read(name: str) -> Dataset:
    """A file of pydicom or pydicom-data, parsed."""
    return dcmread(sample(name), force=True)
