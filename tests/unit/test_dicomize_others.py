"""Files that only large-image reads: its pixels become the instance's, and its failures ours."""

import asyncio
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image
from pydicom import dcmread

from storage.settings import load_settings
from tests.wsi.vendor import svs
from wsi.convert.opening import open_source
from wsi.convert.options import Options
from wsi.convert.others import OtherSlide
from wsi.convert.run import ConversionFailed, Converted, convert
from wsi.convert.source import BadSlide, Place

# large-image leaves files to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

NOISE = np.random.default_rng(11).integers(0, 256, (700, 900, 3), dtype=np.uint8)


def converted(path: Path, **options: object) -> Converted:
    settings = load_settings({"data": path.parent / "data"}, {}, None)[0]
    (path.parent / "out").mkdir()
    return asyncio.run(convert(settings, path, path.parent / "out", Options.parse(options)))


def whole(path: Path) -> np.ndarray:
    """The total pixel matrix of a native instance."""
    ds = dcmread(path)
    frames = ds.pixel_array.reshape(ds.NumberOfFrames, ds.Rows, ds.Columns, -1)
    across = -(-ds.TotalPixelMatrixColumns // ds.Columns)
    rows = [np.concatenate(list(frames[at : at + across]), axis=1) for at in range(0, len(frames), across)]
    return np.concatenate(rows)[: ds.TotalPixelMatrixRows, : ds.TotalPixelMatrixColumns]


@pytest.mark.parametrize(("name", "pixels"), [("a.jp2", NOISE), ("a.bmp", NOISE), ("grey.bmp", NOISE[..., 0])])
def test_pixels_come_through(tmp_path: Path, name: str, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / name)
    assert isinstance(open_source(tmp_path / name), OtherSlide)
    done = converted(tmp_path / name, format="none", mpp=0.5)
    assert np.array_equal(np.squeeze(whole(done.files[0])), pixels)
    lossy = dcmread(done.files[0]).LossyImageCompression
    assert lossy == ("01" if name.endswith(".jp2") else "00")


def test_a_slide_as_another_reader_has_it(tmp_path: Path) -> None:
    svs(tmp_path / "slide.svs")
    ours = OtherSlide(tmp_path / "slide.svs")  # by large-image-source-openslide
    level = ours.levels[0]
    with openslide.OpenSlide(tmp_path / "slide.svs") as theirs:
        assert (level.width, level.height) == theirs.dimensions
        assert ours.scan.mpp == pytest.approx([float(theirs.properties[f"openslide.mpp-{axis}"]) for axis in "xy"])
        assert ours.pictures >= {"label", "overview"}
        size = level.tile_width, level.tile_height
        for x, y in ((0, 0), (2, 1)):
            region = theirs.read_region((x * size[0], y * size[1]), 0, size).convert("RGB")
            assert np.array_equal(ours.tile(0, Place(x, y)), np.asarray(region))
        assert ours.picture("label").shape[2] == 3
    ours.close()


def test_what_nobody_knows(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam")
    with pytest.raises(BadSlide, match="no slide or picture of a format that is known"):
        open_source(tmp_path / "letter.txt")


def test_a_picture_that_ends_early(tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "a.jp2")
    (tmp_path / "a.jp2").write_bytes((tmp_path / "a.jp2").read_bytes()[:5000])
    with pytest.raises(ConversionFailed):
        converted(tmp_path / "a.jp2", mpp=0.5)
    assert not list((tmp_path / "out").iterdir())
