"""Coarse levels as instances of the series, made on request."""

import re
import subprocess
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from wsidicom import WsiDicom

from dicomweb.rendered.profiles import standard_profile
from tests.http.bodies import store
from tests.wsi.make_slide import colour, make_slide
from tests.wsi.variants import Series, file, instance, matrix, tiles_of


def finished(web: httpx.Client, url: str) -> dict[str, Any]:
    end = time.monotonic() + 90
    while (job := web.get(url).json())["state"] not in {"success", "failure"}:
        assert time.monotonic() < end, job
        time.sleep(0.3)
    return job  # type: ignore[no-any-return]


def made_levels(web: httpx.Client, series: str) -> dict[str, Any]:
    answer = web.post(f"/wsi/slides/{series}/levels", json={})
    assert answer.status_code == 202, answer.text
    job = finished(web, answer.json()["url"])
    assert job["state"] == "success", job
    return job["result"]  # type: ignore[no-any-return]


def instances(web: httpx.Client, study: str, series: str, folder: Path) -> list[Dataset]:
    """Those of the series, the largest matrix first, as files in a folder; none of what was made may break its IOD."""
    found = []
    for each in web.get(f"/dicom-web/studies/{study}/series/{series}/instances").json():
        sop = each["00080018"]["Value"][0]
        accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
        answer = web.get(f"/dicom-web/studies/{study}/series/{series}/instances/{sop}", headers=accept)
        data = answer.content
        start = data.index(b"\r\n\r\n") + 4
        (folder / f"{sop}.dcm").write_bytes(data[start : data.rindex(b"\r\n--")])
        found.append(dcmread(folder / f"{sop}.dcm"))
    return sorted(found, key=lambda ds: -ds.TotalPixelMatrixColumns)


def iod_errors(path: Path) -> list[str]:
    said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    return re.findall(r"^Error.*", said.stderr, re.MULTILINE)


def test_levels_become_instances(web: httpx.Client, tmp_path: Path) -> None:
    width, height = 5000, 3300
    profile = standard_profile("adobergb")
    slide = make_slide(width, height, levels=1)
    base = dcmread(BytesIO(slide.files[0]))
    base.OpticalPathSequence[0].ICCProfile = profile + bytes(len(profile) % 2)
    out = BytesIO()
    base.save_as(out)
    assert store(web, out.getvalue()).status_code == 200
    before = web.get(f"/wsi/slides/{slide.series}").json()
    assert made_levels(web, slide.series)["instances"] == 2
    after = web.get(f"/wsi/slides/{slide.series}").json()
    assert after["version"] != before["version"]
    assert [(one["width"], one["height"], one["stored"], one["derived"]) for one in after["levels"]] == [
        (5000, 3300, True, False), (1250, 825, True, False), (313, 207, True, False)
    ]  # fmt: skip
    assert after["problems"] == []
    assert len(after["icc"]) == 1
    found = instances(web, slide.study, slide.series, tmp_path)
    bad = set(iod_errors(tmp_path / f"{found[0].SOPInstanceUID}.dcm"))  # those of the source are its own
    for ds, factor in zip(found[1:], (4, 16), strict=True):
        assert set(iod_errors(tmp_path / f"{ds.SOPInstanceUID}.dcm")) <= bad
        assert list(ds.ImageType) == ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
        assert ds.FrameOfReferenceUID == base.FrameOfReferenceUID
        assert ds.ContainerIdentifier == base.ContainerIdentifier
        assert ds.OpticalPathSequence[0].ICCProfile == base.OpticalPathSequence[0].ICCProfile
        assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == base.SOPInstanceUID
        measures = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert float(measures.PixelSpacing[1]) == pytest.approx(0.0005 * width / ds.TotalPixelMatrixColumns)
        assert float(measures.PixelSpacing[0]) == pytest.approx(0.0005 * factor, rel=0.01)
        assert (ds.LossyImageCompression, list(ds.LossyImageCompressionMethod)) == ("01", ["ISO_10918_1"] * 2)
        assert ds.InstanceNumber != base.InstanceNumber
    with WsiDicom.open(tmp_path) as theirs:
        size = theirs.levels[1].size
        assert (size.width, size.height) == (1250, 825)
        seen = np.asarray(theirs.read_region((0, 0), theirs.levels[1].level, (1250, 825)).convert("RGB")).astype(int)
    for x, y in ((0.1, 0.2), (0.5, 0.5), (0.9, 0.8)):
        assert np.abs(seen[int(y * 825), int(x * 1250)] - np.array(colour(x, y, 0))).max() < 10
    assert made_levels(web, slide.series)["instances"] == 0


def test_shades_of_all_paths_and_planes(web: httpx.Client, tmp_path: Path) -> None:
    """Two optical paths with three planes each, of 16 bits: without loss, in the order of TILED_FULL."""
    arrays = [matrix(1600, 1200, seed=seed, bits=16, colour=False) for seed in range(6)]
    series = Series()
    frames = [tile for array in arrays for tile in tiles_of(array, 128, fill=0)]
    ds = instance(series, frames, (1600, 1200), paths=("DAPI", "Cy5"), planes=3)
    assert store(web, file(ds)).status_code in {200, 202}
    assert made_levels(web, series.series)["instances"] == 1
    after = web.get(f"/wsi/slides/{series.series}").json()
    assert [(one["width"], one["stored"]) for one in after["levels"]] == [(1600, True), (400, True)]
    assert [path["identifier"] for path in after["optical_paths"]] == ["DAPI", "Cy5"]
    assert after["problems"] == []
    level = instances(web, series.study, series.series, tmp_path)[1]
    assert (level.NumberOfFrames, level.TotalPixelMatrixFocalPlanes, level.NumberOfOpticalPaths) == (4 * 3 * 6, 3, 2)
    assert [path.OpticalPathIdentifier for path in level.OpticalPathSequence] == ["DAPI", "Cy5"]
    assert level.LossyImageCompression == "00"
    pixels = level.pixel_array.reshape(6, 3, 4, 128, 128)
    for array, tiles in zip(arrays, pixels, strict=True):
        whole = tiles.transpose(0, 2, 1, 3).reshape(3 * 128, 4 * 128)[:300, :400]
        means = array.reshape(300, 4, 400, 4).mean(axis=(1, 3))
        assert np.abs(whole - means).max() <= 1
    asked = {"path": "Cy5", "focal": 2, "format": "png", "window": "32768,65536,linear-exact"}
    answer = web.get(f"/wsi/slides/{series.series}/tiles/1/0/0", params=asked)
    shown = np.asarray(Image.open(BytesIO(answer.content)))
    assert np.abs(shown.astype(int) - pixels[5, 0, 0] / 257).max() <= 2


def test_what_is_asked_for(web: httpx.Client) -> None:
    slide = make_slide(600, 400, levels=1)
    assert store(web, *slide.files).status_code == 200
    assert made_levels(web, slide.series) == {"study": slide.study, "series": slide.series, "instances": 0}
    assert web.post(f"/wsi/slides/{slide.series}/levels", json={"factor": 2}).status_code == 400
    assert web.post("/wsi/slides/1.2.3/levels").status_code == 404
