"""Files as scanners and other programs write them, small: Aperio SVS, tiled TIFF, OME-TIFF."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import simplejpeg
import tifffile
from PIL import Image

from tests.wsi.variants import Matrix, matrix, tiles_of

SIZE = (1500, 1100)
TILE = 256
MPP = 0.25


def levels_of(base: Matrix, *factors: int) -> list[Matrix]:
    """The base, and what is left of it when it is shrunk."""
    return [base, *(np.asarray(Image.fromarray(base).reduce(factor)) for factor in factors)]


def ycbcr(tiles: Sequence[Matrix], subsampling: str = "422") -> Iterator[bytes]:
    for tile in tiles:
        yield bytes(simplejpeg.encode_jpeg(tile, quality=85, colorspace="RGB", colorsubsampling=subsampling))


def rgb(tiles: Sequence[Matrix]) -> Iterator[bytes]:
    """JPEG that holds RGB and does not say so, with a comment that names someone."""
    for tile in tiles:
        data = bytes(imagecodecs.jpeg8_encode(tile, 90, colorspace="rgb", outcolorspace="rgb"))
        bare = without(data, b"\xff\xee")
        yield bare[:2] + b"\xff\xfe\x00\x0bDOE^JANE\0" + bare[2:]


def without(data: bytes, marker: bytes) -> bytes:
    """The JPEG stream without one kind of segment."""
    at = data.find(marker)
    return data if at < 0 else data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def svs(
    path: Path, *, space: str = "ycbcr", size: tuple[int, int] = SIZE, mpp: str = "0.2500", macro: Matrix | None = None
) -> list[Matrix]:
    """An Aperio file of two levels, thumbnail, label and macro image; the pixels of the levels before compression."""
    levels = levels_of(matrix(*size), 4)
    width, height = size
    thumbnail = np.asarray(Image.fromarray(levels[1]).resize((width // 6, height // 6)))
    said = f"|AppMag = 40|MPP = {mpp}|ScanScope ID = SS1234|Filename = DOE JANE|Date = 11/20/24|Time = 10:11:12"
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:

        def put(pixels: Matrix, **more: Any) -> None:
            tiles = tiles_of(pixels, TILE)
            tiff.write(
                ycbcr(tiles) if space == "ycbcr" else rgb(tiles),
                shape=pixels.shape, dtype=np.uint8, tile=(TILE, TILE), photometric=space, compression="jpeg",
                subsampling=(2, 1) if space == "ycbcr" else None, metadata=None,
                compressionargs=None if space == "ycbcr" else {"outcolorspace": "rgb"},
                description=f"Aperio Image Library v12.0.15 \r\n{width}x{height}{said}", **more,
            )  # fmt: skip

        put(levels[0], iccprofile=imagecodecs.cms_profile("adobergb"))
        tiff.write(thumbnail, photometric="rgb", compression="zlib", rowsperstrip=16, metadata=None)
        put(levels[1])
        label = np.full((200, 200, 3), 240, np.uint8)
        tiff.write(label, photometric="rgb", compression="lzw", rowsperstrip=64, subfiletype=1, metadata=None,
                   description="Aperio Image Library v12.0.15 \r\nlabel 200x200")  # fmt: skip
        macro = label[:100] if macro is None else macro
        tiff.write(macro, photometric="rgb", compression="zlib", rowsperstrip=16, subfiletype=9, metadata=None,
                   description="Aperio Image Library v12.0.15 \r\nmacro 200x100")  # fmt: skip
    return levels


def tiled_tiff(path: Path, **options: Any) -> Matrix:
    """A TIFF with tiles of one level, 101,600 pixels an inch; `options` are tifffile's."""
    base = matrix(*SIZE)
    said = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "zlib", "metadata": None}
    tifffile.imwrite(path, base, resolution=(101_600, 101_600), resolutionunit=2, **said | options)
    return base


def ome_tiff(path: Path, *, channels: int = 3, planes: int = 2, bits: int = 16) -> Matrix:
    """Fluorescence: (channels, planes, rows, columns), two levels in SubIFDs."""
    pixels = np.stack([
        np.stack([matrix(700, 500, seed=10 * c + z, bits=bits, colour=False) for z in range(planes)])
        for c in range(channels)
    ])  # fmt: skip
    said = {
        "axes": "CZYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5,
        "PhysicalSizeYUnit": "µm", "PhysicalSizeZ": 1.5, "PhysicalSizeZUnit": "µm",
        "Channel": {"Name": ["DAPI", "FITC", "Cy5"][:channels], "ExcitationWavelengthUnit": ["nm"] * channels,
                    "ExcitationWavelength": [358.0, 490.0, 650.0][:channels]},
    }  # fmt: skip
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as tiff:
        shared = {"tile": (128, 128), "photometric": "minisblack", "compression": "zlib"}
        tiff.write(pixels, subifds=1, metadata=said, **shared)
        tiff.write(pixels[..., ::2, ::2], subfiletype=1, **shared)
    return pixels
