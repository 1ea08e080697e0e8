"""`anor export`: what comes out is what OpenSlide and tifffile see in the file that went in."""

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from pydicom.uid import generate_uid

from tests.support import RunningServer, anor
from tests.wsi.vendor import MPP, ome_tiff, svs, tiled_tiff
from wsi.convert.tiff import open_tiff


def stored(server: RunningServer, path: Path, *flags: str) -> str:
    series = str(generate_uid())
    done = anor("dicomize", str(path), "--data", str(server.data), "--series", series, "-q", *flags)
    assert done.returncode == 0, done.stderr
    return series


def exported(server: RunningServer, series: str, path: Path, *flags: str) -> None:
    done = anor("export", series, str(path), "--data", str(server.data), "-q", *flags)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("space", ["ycbcr", "rgb"])
def test_jpeg_frames_are_copied(server: RunningServer, tmp_path: Path, space: str) -> None:
    svs(tmp_path / "in.svs", space=space)
    series = stored(server, tmp_path / "in.svs")
    exported(server, series, tmp_path / "out.tiff", "--plain")
    exported(server, series, tmp_path / "out.ome.tiff")
    with openslide.OpenSlide(tmp_path / "in.svs") as before, openslide.OpenSlide(tmp_path / "out.tiff") as after:
        assert after.level_dimensions == before.level_dimensions
        assert float(after.properties["openslide.mpp-x"]) == pytest.approx(MPP)
        for level, size in enumerate(before.level_dimensions):
            one, two = (np.asarray(each.read_region((0, 0), level, size)) for each in (before, after))
            assert np.array_equal(one, two), level
    with tifffile.TiffFile(tmp_path / "out.ome.tiff") as tiff:
        assert tiff.is_ome
        (image,) = tiff.series
        assert [level.shape for level in image.levels] == [(1100, 1500, 3), (275, 375, 3)]
        assert 'PhysicalSizeX="0.25"' in (tiff.ome_metadata or "")
        assert tiff.pages.first.iccprofile
    source = open_tiff(tmp_path / "out.ome.tiff")
    assert source is not None
    assert source.levels[0].copied is not None
    source.close()


def test_what_is_no_jpeg_is_written_without_loss(server: RunningServer, tmp_path: Path) -> None:
    base = tiled_tiff(tmp_path / "in.tiff")
    series = stored(server, tmp_path / "in.tiff", "--format", "htj2k-lossless")
    exported(server, series, tmp_path / "out.tiff", "--plain")
    assert np.array_equal(tifffile.imread(tmp_path / "out.tiff"), base)


def test_fluorescence_comes_back(server: RunningServer, tmp_path: Path) -> None:
    pixels = ome_tiff(tmp_path / "in.ome.tiff")
    series = stored(server, tmp_path / "in.ome.tiff")
    exported(server, series, tmp_path / "out.ome.tiff")
    with tifffile.TiffFile(tmp_path / "out.ome.tiff") as tiff:
        assert np.array_equal(tiff.series[0].levels[0].asarray(), pixels)
        assert np.array_equal(tiff.series[0].levels[1].asarray(), pixels[..., ::2, ::2])
        assert all(name in (tiff.ome_metadata or "") for name in ("DAPI", "FITC", "Cy5"))


def test_what_cannot_be_exported(server: RunningServer, tmp_path: Path) -> None:
    flags = ("--data", str(server.data), "-q")
    unknown = anor("export", str(generate_uid()), str(tmp_path / "x.tiff"), *flags)
    assert (unknown.returncode, "no such series" in unknown.stderr) == (1, True)
    (tmp_path / "x.tiff").write_bytes(b"")
    there = anor("export", "1.2.3", str(tmp_path / "x.tiff"), *flags)
    assert (there.returncode, "is there already" in there.stderr) == (2, True)
