"""Files of scanners that OpenSlide reads: their pixels, sizes and places, against what was written into them."""

import asyncio
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image
from pydicom import dcmread
from wsidicom import WsiDicom

from storage.settings import load_settings
from tests.wsi.converting import converted_here
from tests.wsi.scanners import MPP, SCANNERS
from tests.wsi.variants import Matrix
from wsi.convert.options import Options
from wsi.convert.run import ConversionFailed, Converted, convert

OVERVIEWS = {"leica": (512, 1536), "hamamatsu": (300, 100), "hamamatsu-vms": (192, 64)}


def converted_apart(path: Path, folder: str = "out", **options: object) -> Converted:
    settings = load_settings({"data": path.parent / "data"}, {}, None)[0]
    (path.parent / folder).mkdir()
    return asyncio.run(convert(settings, path, path.parent / folder, Options.parse(options)))


def by_wsidicom(folder: Path, level: int) -> Matrix:
    with WsiDicom.open(folder) as slide:
        found = slide.levels[level]
        size = found.size.width, found.size.height
        return np.asarray(slide.read_region((0, 0), found.level, size).convert("RGB"))


@pytest.mark.parametrize("scanner", SCANNERS)
def test_pixels_lie_where_the_scanner_saw_them(tmp_path: Path, scanner: str) -> None:
    name, write = SCANNERS[scanner]
    seen = write(tmp_path / name)
    (tmp_path / "out").mkdir()
    done = converted_here(tmp_path / name, tmp_path / "out", {"format": "jpeg2000-lossless", "pyramid": "source"})
    base = dcmread(done.files[0])
    rows, columns = seen.shape[:2]
    assert (base.TotalPixelMatrixRows, base.TotalPixelMatrixColumns) == (rows, columns)
    spacing = base.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    assert [float(each) * 1000 for each in spacing] == pytest.approx([MPP, MPP])
    assert base.OpticalPathSequence[0].get("ObjectiveLensPower") == (None if scanner == "philips" else 20)
    assert base.LossyImageCompression == "01"
    shown = by_wsidicom(tmp_path / "out", 0)
    assert np.abs(shown.astype(int) - seen).mean() < 1.5
    assert np.abs(shown.astype(int) - seen).max() < 40
    with openslide.OpenSlide(tmp_path / name) as theirs:
        corner = tuple(int(theirs.properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy")
        region = theirs.read_region(corner, 0, (columns, rows)).convert("RGB")  # type: ignore[arg-type]
        assert np.array_equal(shown, np.asarray(region))
        levels = [file for file in done.files if file.name.startswith("level")]
        assert len(levels) == theirs.level_count
    if len(levels) > 1:
        coarse = by_wsidicom(tmp_path / "out", 1)
        wanted = np.asarray(Image.fromarray(seen).resize((coarse.shape[1], coarse.shape[0]), Image.Resampling.BOX))
        assert np.abs(coarse.astype(int) - wanted).mean() < 2.5
    overviews = [(ds.Columns, ds.Rows) for ds in map(dcmread, done.files) if ds.ImageType[2] == "OVERVIEW"]
    assert overviews == ([OVERVIEWS[scanner]] if scanner in OVERVIEWS else [])


@pytest.mark.parametrize("scanner", SCANNERS)
def test_a_file_that_was_cut(tmp_path: Path, scanner: str) -> None:
    name, write = SCANNERS[scanner]
    write(tmp_path / name)
    # Of a slide of several files one that has pixels.
    path = tmp_path / {"hamamatsu-vms": "part1.jpg", "mirax": "slide/Data0000.dat"}.get(scanner, name)
    data = path.read_bytes()
    for part in (0.3, 0.7):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(ConversionFailed):
            converted_apart(tmp_path / name, f"cut-{part}", format="none", pyramid="source")
