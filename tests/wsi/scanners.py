"""Slides as scanners lay them out that OpenSlide reads: written here after the descriptions of the formats, small."""

import struct
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile
from PIL import Image

from tests.wsi.variants import Matrix, tiles_of
from tests.wsi.vendor import levels_of, ycbcr

SIZE: Final = (1536, 1024)
TILE: Final = 256
MPP: Final = 0.25


def smooth(width: int, height: int) -> Matrix:
    """Colours that tell the place and that JPEG keeps."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, 128 + 100 * np.sin(x / 90) * np.cos(y / 70)], -1).astype("u1")


def _tiled(tiff: tifffile.TiffWriter, pixels: Matrix, **more: Any) -> None:
    tiff.write(
        ycbcr(tiles_of(pixels, TILE)), shape=pixels.shape, dtype=np.uint8, tile=(TILE, TILE), photometric="ycbcr",
        compression="jpeg", subsampling=(2, 1), metadata=None, **more,
    )  # fmt: skip


def philips(path: Path) -> Matrix:
    """Philips TIFF: levels padded to whole tiles, whose real sizes follow from the spacings in the XML."""
    base = smooth(*SIZE)
    levels = levels_of(base, 2, 4)
    spacings = "".join(
        '<DataObject ObjectType="PixelDataRepresentation">'
        f'<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" Element="0x0030" PMSVR="IDoubleArray">'
        f'"{MPP * factor / 1000}" "{MPP * factor / 1000}"</Attribute>'
        "</DataObject>"
        for factor in (1, 2, 4)
    )
    said = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        '<Attribute Name="DICOM_MANUFACTURER" Group="0x0008" Element="0x0070" PMSVR="IString">PHILIPS</Attribute>'
        '<Attribute Name="PIM_DP_SCANNED_IMAGES" Group="0x301D" Element="0x1003" PMSVR="IDataObjectArray"><Array>'
        '<DataObject ObjectType="DPScannedImage">'
        '<Attribute Name="PIM_DP_IMAGE_TYPE" Group="0x301D" Element="0x1004" PMSVR="IString">WSI</Attribute>'
        f'<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" Element="0x0030" PMSVR="IDoubleArray">'
        f'"{MPP / 1000}" "{MPP / 1000}"</Attribute>'
        '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" Group="0x1001" Element="0x8B01" '
        f'PMSVR="IDataObjectArray"><Array>{spacings}</Array></Attribute>'
        "</DataObject></Array></Attribute></DataObject>"
    )
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            rows, columns = -level.shape[0] % TILE, -level.shape[1] % TILE
            padded = np.pad(level, ((0, rows), (0, columns), (0, 0)), constant_values=255)
            more = {"software": "Philips DP v1.0", "description": said} if number == 0 else {"subfiletype": 1}
            _tiled(tiff, padded, **more)
    return base


def scn(path: Path) -> Matrix:
    """Leica SCN: a picture of the whole slide and one of an area, named in XML with their places in nm."""
    base = smooth(*SIZE)
    whole = np.asarray(Image.fromarray(base).resize((512, 1536)))
    levels = levels_of(base, 4)
    area = round(SIZE[0] * MPP * 1000), round(SIZE[1] * MPP * 1000)
    light = (
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
        "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings>"
    )

    def image(name: str, sizes: Sequence[tuple[int, int]], first: int, view: str) -> str:
        dimensions = "".join(
            f'<dimension sizeX="{w}" sizeY="{h}" r="{r}" ifd="{first + r}"/>' for r, (w, h) in enumerate(sizes)
        )
        pixels = f'<pixels sizeX="{sizes[0][0]}" sizeY="{sizes[0][1]}">{dimensions}</pixels>'
        return f'<image name="{name}" uuid="{name}"><device model="Leica SCN400"/>{pixels}{view}{light}</image>'

    said = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="u">'
        '<collection name="c" uuid="u" sizeX="26564529" sizeY="76734488"><barcode/>'
        + image("whole", [(512, 1536)], 0, '<view sizeX="26564529" sizeY="76734488" offsetX="0" offsetY="0"/>')
        + image(
            "area", [SIZE, (SIZE[0] // 4, SIZE[1] // 4)], 1,
            f'<view sizeX="{area[0]}" sizeY="{area[1]}" offsetX="5000000" offsetY="9000000"/>',
        )
        + "</collection></scn>"
    )  # fmt: skip
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        _tiled(tiff, whole, description=said)
        for factor, level in zip((1, 4), levels, strict=True):
            _tiled(tiff, level, resolution=(10_000 / MPP / factor, 10_000 / MPP / factor), resolutionunit=3)
    return base


def trestle(path: Path) -> Matrix:
    """Trestle: tiles that overlap by 16 pixels each way; the file's matrix is as large as the tiles together."""
    overlap, base = 16, smooth(*SIZE)
    step = TILE - overlap
    across, down = (SIZE[0] - overlap) // step, (SIZE[1] - overlap) // step
    shown = base[: down * step + overlap, : across * step + overlap]
    tiles = [base[y * step : y * step + TILE, x * step : x * step + TILE] for y in range(down) for x in range(across)]
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            ycbcr(tiles), shape=(down * TILE, across * TILE, 3), dtype=np.uint8, tile=(TILE, TILE),
            photometric="ycbcr", compression="jpeg", subsampling=(2, 1), metadata=None, software="MedScan 1.0",
            description=f"Objective Power=20;Background Color=FFFFFF;OverlapsXY= {overlap} {overlap}",
            resolution=(MPP, MPP), resolutionunit=1,
        )  # fmt: skip
    return shown


def _restarting(pixels: Matrix, blocks: int) -> bytes:
    """JPEG in which decoding can begin at every `blocks`-th MCU."""
    out = BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=92, subsampling=1, restart_marker_blocks=blocks)
    return out.getvalue()


def ndpi(path: Path) -> Matrix:
    """Hamamatsu NDPI: each level is one strip of JPEG; private tags say magnification and focal plane."""
    base = smooth(*SIZE)
    with tifffile.TiffWriter(path) as tiff:
        for factor, pixels in zip((1, 4), levels_of(base, 4), strict=True):
            tags = [
                (65420, 4, 1, 1, True), (65421, 11, 1, 20.0 / factor, True), (65422, 9, 1, 0, True),
                (65423, 9, 1, 0, True), (65424, 9, 1, 0, True), (65442, 2, 0, "NZ1234", True),
            ]  # fmt: skip
            tiff.write(
                iter([_restarting(pixels, 8)]), shape=pixels.shape, dtype=np.uint8, photometric="ycbcr",
                compression="jpeg", subsampling=(2, 1), rowsperstrip=pixels.shape[0], metadata=None, extratags=tags,
                resolution=(10_000 / MPP / factor, 10_000 / MPP / factor), resolutionunit=3,
            )  # fmt: skip
        small = np.asarray(Image.fromarray(base).resize((300, 100)))
        tiff.write(
            iter([_restarting(small, 8)]), shape=small.shape, dtype=np.uint8, photometric="ycbcr", compression="jpeg",
            subsampling=(2, 1), rowsperstrip=100, metadata=None, software="NDP.scan",
            extratags=[(65420, 4, 1, 1, True), (65421, 11, 1, -1.0, True)],
        )  # fmt: skip
    return base


def vms(path: Path) -> Matrix:
    """Hamamatsu VMS: a key file, pictures of 2 x 1 parts, a map of the whole, a macro image."""
    base = smooth(*SIZE)
    half = SIZE[0] // 2
    for name, pixels in (
        ("part.jpg", base[:, :half]), ("part1.jpg", base[:, half:]),
        ("map.jpg", np.asarray(Image.fromarray(base).reduce(8))), ("macro.jpg", base[:64, :192]),
    ):  # fmt: skip
        (path.parent / name).write_bytes(_restarting(pixels, 4))
    path.write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=2\nNoJpegRows=1\nImageFile=part.jpg\n"
        "ImageFile(1,0)=part1.jpg\nMapFile=map.jpg\nMacroImage=macro.jpg\nSourceLens=20\n"
        f"PhysicalWidth={SIZE[0] * MPP * 1000:.0f}\nPhysicalHeight={SIZE[1] * MPP * 1000:.0f}\nLayerSpacing=0\n"
    )
    return base


def mrxs(path: Path) -> Matrix:
    """3DHISTECH MIRAX: a folder with an INI file, an index of pages, and the tiles of two levels in one file."""
    base = smooth(*SIZE)
    folder = path.with_suffix("")
    folder.mkdir()
    path.write_bytes(b"")
    across, down = SIZE[0] // TILE, SIZE[1] // TILE
    data, pages = b"", []
    for factor, level in zip((1, 2), levels_of(base, 2), strict=True):
        page = b""
        for number, tile in enumerate(ycbcr(tiles_of(level, TILE))):
            x, y = number % (across // factor), number // (across // factor)
            page += struct.pack("<4i", (y * across + x) * factor, len(data), len(tile), 0)
            data += tile
        pages.append(page)
    (folder / "Data0000.dat").write_bytes(data)
    head = b"01.02" + b"0123456789ABCDEF"
    tables = len(head) + 8
    places, body = [], b""
    start = tables + 4 * len(pages)
    for page in pages:  # 0, the place of the first page; which has its length, the place of the next one, entries
        at = start + len(body)
        places.append(at)
        body += struct.pack("<4i", 0, at + 8, len(page) // 16, 0) + page
    index = head + struct.pack("<2i", tables, 0) + struct.pack(f"<{len(places)}i", *places) + body
    (folder / "Index.dat").write_bytes(index)
    levels = "".join(
        f"[LEVEL_{number}]\nOVERLAP_X=0\nOVERLAP_Y=0\nMICROMETER_PER_PIXEL_X={MPP * factor}\n"
        f"MICROMETER_PER_PIXEL_Y={MPP * factor}\nIMAGE_FORMAT=JPEG\nIMAGE_FILL_COLOR_BGR=16777215\n"
        f"DIGITIZER_WIDTH={TILE}\nDIGITIZER_HEIGHT={TILE}\nIMAGE_CONCAT_FACTOR={number}\n"
        for number, factor in enumerate((1, 2))
    )
    (folder / "Slidedat.ini").write_text(
        "[GENERAL]\nSLIDE_VERSION=01.02\nSLIDE_ID=0123456789ABCDEF\n"
        f"IMAGENUMBER_X={across}\nIMAGENUMBER_Y={down}\nOBJECTIVE_MAGNIFICATION=20\n"
        "[HIERARCHICAL]\nHIER_COUNT=1\nNONHIER_COUNT=0\nINDEXFILE=Index.dat\nHIER_0_NAME=Slide zoom level\n"
        "HIER_0_COUNT=2\nHIER_0_VAL_0_SECTION=LEVEL_0\nHIER_0_VAL_1_SECTION=LEVEL_1\n"
        f"[DATAFILE]\nFILE_COUNT=1\nFILE_0=Data0000.dat\n{levels}"
    )
    return base


SCANNERS: Final[dict[str, tuple[str, Callable[[Path], Matrix]]]] = {
    "philips": ("slide.tiff", philips),
    "leica": ("slide.scn", scn),
    "trestle": ("slide.tif", trestle),
    "hamamatsu": ("slide.ndpi", ndpi),
    "hamamatsu-vms": ("slide.vms", vms),
    "mirax": ("slide.mrxs", mrxs),
}
