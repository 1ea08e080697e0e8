"""`anor dicomize` against a running archive: what a viewer gets is what the scanner wrote."""

import json
from io import BytesIO
from pathlib import Path

import httpx
import imagecodecs
import numpy as np
import openslide
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import generate_uid

from tests.support import RunningServer, anor
from tests.wsi.vendor import TILE, svs, tiled_tiff


def shown(web: httpx.Client, series: str, level: int, x: int, y: int) -> np.ndarray:
    answer = web.get(f"/wsi/slides/{series}/tiles/{level}/{x}/{y}")
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(BytesIO(answer.content)).convert("RGB"))


@pytest.mark.parametrize("how", ["archive", "stow"])
def test_a_slide_is_shown_as_it_was_scanned(server: RunningServer, web: httpx.Client, tmp_path: Path, how: str) -> None:
    svs(tmp_path / "slide.svs")
    series = str(generate_uid())
    where = ["--to", server.dicomweb] if how == "stow" else ["--data", str(server.data)]
    done = anor("dicomize", str(tmp_path / "slide.svs"), *where, "--series", series, "--quiet")
    assert done.returncode == 0, done.stderr
    assert f"series {series}, 5 instances" in done.stdout
    slide = web.get(f"/wsi/slides/{series}").json()
    # The thumbnail is the coarsest level.
    assert [level["width"] for level in slide["levels"]] == [1500, 375, 250]
    assert slide["problems"] == []
    assert slide["mpp"] == [0.25, 0.25]
    assert set(slide["images"]) == {"label", "overview", "thumbnail"}
    with openslide.OpenSlide(tmp_path / "slide.svs") as theirs:
        for x, y in ((0, 0), (2, 1), (4, 3)):
            region = theirs.read_region((x * TILE, y * TILE), 0, (TILE, TILE)).convert("RGB")
            assert np.array_equal(shown(web, series, 0, x, y), np.asarray(region))
    again = anor("dicomize", str(tmp_path / "no.svs"), *where)
    assert again.returncode == 2
    assert "no such file" in again.stderr


def test_a_concatenation_is_one_level(server: RunningServer, web: httpx.Client, tmp_path: Path) -> None:
    svs(tmp_path / "slide.svs")
    series = str(generate_uid())
    said = ["--series", series, "--quiet", "--instance-bytes", "200000", "--no-thumbnail"]
    done = anor("dicomize", str(tmp_path / "slide.svs"), "--to", server.dicomweb, *said)
    assert done.returncode == 0, done.stderr
    slide = web.get(f"/wsi/slides/{series}").json()
    assert [level["width"] for level in slide["levels"]] == [1500, 375]
    assert slide["problems"] == []
    with openslide.OpenSlide(tmp_path / "slide.svs") as theirs:
        for x, y in ((0, 0), (2, 1), (5, 4)):
            region = theirs.read_region((x * TILE, y * TILE), 0, (TILE, TILE)).convert("RGBA")
            seen = np.asarray(region)[..., 3] > 0
            assert np.array_equal(shown(web, series, 0, x, y)[seen], np.asarray(region.convert("RGB"))[seen])


def test_into_a_folder(tmp_path: Path) -> None:
    svs(tmp_path / "good.svs")
    (tmp_path / "bad.svs").write_bytes((tmp_path / "good.svs").read_bytes()[:5000])
    (tmp_path / "said.json").write_text(json.dumps({"PatientID": "P-3", "PatientName": "Doe^Jane"}))
    files = [str(tmp_path / f"{name}.svs") for name in ("bad", "good")]
    done = anor("dicomize", *files, "--out", str(tmp_path / "out"), "--metadata", str(tmp_path / "said.json"), "-q")
    assert done.returncode == 1
    assert "bad.svs" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good"]
    found = [dcmread(path) for path in (tmp_path / "out" / "good").iterdir()]
    assert {ds.PatientID for ds in found} == {"P-3"}
    assert {ds.ContainerIdentifier for ds in found} == {"good"}
    twice = anor("dicomize", files[1], "--out", str(tmp_path / "out"), "-q")
    assert twice.returncode == 1
    assert "is there already" in twice.stderr


def test_label_profile_and_overview_from_the_command_line(tmp_path: Path) -> None:
    svs(tmp_path / "slide.svs")
    Image.new("RGB", (40, 30), (9, 99, 199)).save(tmp_path / "label.png")
    (tmp_path / "own.icc").write_bytes(profile := bytes(imagecodecs.cms_profile("adobergb")))
    flags = ("--label-image", "label.png", "--icc", "own.icc", "--overview-part", "50,0,50,100", "--no-copy",
             "--instance-frames", "20", "--origin", "20,50", "-q")  # fmt: skip
    done = anor("dicomize", "slide.svs", "--out", "out", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {path.name: dcmread(path) for path in (tmp_path / "out" / "slide").iterdir()}
    assert set(found) == {
        "level-00-001.dcm", "level-00-002.dcm", "level-01.dcm", "label.dcm", "overview.dcm", "thumbnail.dcm"
    }  # fmt: skip
    assert (found["label.dcm"].Columns, found["overview.dcm"].Columns) == (40, 100)
    assert {ds.OpticalPathSequence[0].ICCProfile.rstrip(b"\0") for ds in found.values()} == {profile.rstrip(b"\0")}
    assert found["level-01.dcm"].TotalPixelMatrixOriginSequence[0].XOffsetInSlideCoordinateSystem == 20
    refused = anor("dicomize", "slide.svs", "--out", "other", "--icc", "none.icc", "-q", cwd=tmp_path)
    assert (refused.returncode, "ICC profile cannot be read" in refused.stderr) == (1, True)


def test_what_would_be_written(tmp_path: Path) -> None:
    tiled_tiff(tmp_path / "slide.tiff")
    done = anor("dicomize", str(tmp_path / "slide.tiff"), "--dry-run", "--format", "htj2k")
    assert done.returncode == 0, done.stderr
    assert "1500 x 1100" in done.stdout
    assert "1.2.840.10008.1.2.4.203" in done.stdout
    assert not list(tmp_path.glob("*.dcm"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--format", "gif"], "format is one of keep"),
        (["--quality", "101"], "quality is 1 to 100"),
        (["--to", "ftp://x"], "--to is the DICOMweb root"),
        (["--to", "http://x", "--out", "y"], "exclude each other"),
        (["--metadata", "no.json"], "no JSON file"),
        (["--overview-part", "1,2,3"], "overview_part is left,top,width,height"),
        (["--split", "levels"], "split is one of none"),
    ],
)
def test_flags_that_are_wrong(tmp_path: Path, flags: list[str], said: str) -> None:
    tiled_tiff(tmp_path / "slide.tiff")
    done = anor("dicomize", str(tmp_path / "slide.tiff"), *flags, cwd=None)
    assert done.returncode == 2
    assert said in done.stderr


def test_an_archive_that_does_not_take_it(tmp_path: Path, server: RunningServer) -> None:
    tiled_tiff(tmp_path / "slide.tiff")
    done = anor("dicomize", str(tmp_path / "slide.tiff"), "--to", f"{server.url}/nowhere", "-q")
    assert done.returncode == 1
    assert "did not take level-00.dcm: 404" in done.stderr or "did not take level-01.dcm: 404" in done.stderr
    closed = anor("dicomize", str(tmp_path / "slide.tiff"), "--to", "http://127.0.0.1:9/dicom-web", "-q")
    assert closed.returncode == 1
    assert "did not take" in closed.stderr


def test_a_folder_of_dicom_without_names(tmp_path: Path) -> None:
    svs(tmp_path / "slide.svs")
    assert anor("dicomize", str(tmp_path / "slide.svs"), "--out", str(tmp_path / "a"), "-q").returncode == 0
    refused = anor("dicomize", str(tmp_path / "a" / "slide"), "--out", str(tmp_path / "b"), "-q")
    assert (refused.returncode, "DICOM already" in refused.stderr) == (1, True)
    flags = ("--deidentify", "--pyramid", "source", "--name", "case-1", "-q")
    done = anor("dicomize", str(tmp_path / "a" / "slide"), "--out", str(tmp_path / "b"), *flags)
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "b" / "slide").iterdir())
    assert [file.name for file in files] == ["level-00.dcm", "level-01.dcm", "thumbnail.dcm"]
    assert {dcmread(file).ContainerIdentifier for file in files} == {"case-1"}
