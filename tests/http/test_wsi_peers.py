"""Tiles against wsidicom and OpenSlide, which read the same files; wsidicom's DICOMweb client against the server."""

import itertools
from io import BytesIO
from pathlib import Path

import httpx
import large_image_source_dicom
import numpy as np
import openslide
import pytest
from dicomweb_client.api import DICOMwebClient
from PIL import Image
from pydicom import Dataset
from pydicom.uid import generate_uid
from wsidicom import WsiDicom
from wsidicom.web import WsiDicomWebClient

from tests.http.bodies import store
from tests.support import RunningServer
from tests.wsi.make_slide import make_slide
from tests.wsi.variants import JPEG, Matrix, Place, Series, file, instance, jpeg, matrix, tiles_of

SIZE, TILE = (700, 500), 128
GRID = list(itertools.product(range(4), range(6)))


def jpeg_frames(frames: list[Matrix], series: Series, **attributes: object) -> Dataset:
    return instance(
        series, frames, SIZE, syntax=JPEG, encoded=[jpeg(frame) for frame in frames],
        PhotometricInterpretation="YBR_FULL_422" if frames[0].ndim == 3 else "MONOCHROME2", **attributes,
    )  # fmt: skip


def full(series: Series) -> list[Dataset]:
    return [jpeg_frames(tiles_of(matrix(*SIZE), TILE), series)]


def sparse(series: Series) -> list[Dataset]:
    frames = tiles_of(matrix(*SIZE), TILE)
    taken = [i for i in range(len(frames)) if i % 5 != 3][::-1]
    places = [Place(TILE * (i % 6), TILE * (i // 6)) for i in taken]
    return [jpeg_frames([frames[i] for i in taken], series, places=places)]


def concatenation(series: Series) -> list[Dataset]:
    frames, source, uid = tiles_of(matrix(*SIZE), TILE), generate_uid(), generate_uid()
    return [
        jpeg_frames(
            frames[first:end], series, ConcatenationUID=uid, InConcatenationNumber=number, InstanceNumber=number,
            InConcatenationTotalNumber=3, ConcatenationFrameOffsetNumber=first,
            SOPInstanceUIDOfConcatenationSource=source,
        )
        for number, (first, end) in enumerate([(0, 7), (7, 18), (18, 24)], 1)
    ]  # fmt: skip


def put(web: httpx.Client, folder: Path, datasets: list[Dataset]) -> str:
    for index, ds in enumerate(datasets):
        data = file(ds)
        (folder / f"{index}.dcm").write_bytes(data)
        assert store(web, data).status_code in {200, 202}
    return f"/wsi/slides/{datasets[0].SeriesInstanceUID}"


def served(web: httpx.Client, slide: str, x: int, y: int, query: str = "") -> Matrix:
    answer = web.get(f"{slide}/tiles/0/{x}/{y}?{query}")
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(BytesIO(answer.content)))


def inside(array: Matrix, x: int, y: int) -> Matrix:
    """The part of a tile that lies on the matrix: what is beyond is everyone's own affair."""
    return array[: min(TILE, SIZE[1] - y * TILE), : min(TILE, SIZE[0] - x * TILE)]


@pytest.mark.parametrize("kind", [full, sparse, concatenation])
def test_tiles_are_those_of_wsidicom_and_openslide(web: httpx.Client, tmp_path: Path, kind: object) -> None:
    slide = put(web, tmp_path, kind(Series()))  # type: ignore[operator]
    with WsiDicom.open(tmp_path) as theirs, openslide.OpenSlide(tmp_path / "0.dcm") as other:
        for y, x in GRID:
            ours = inside(served(web, slide, x, y), x, y)
            expected = inside(np.asarray(theirs.read_tile(0, (x, y)).convert("RGB")), x, y)
            assert np.array_equal(ours, expected), (x, y)
            region = other.read_region((x * TILE, y * TILE), 0, (ours.shape[1], ours.shape[0]))
            shown = np.asarray(region)
            covered = shown[..., 3] == 255
            assert np.array_equal(ours[covered], shown[..., :3][covered]), (x, y)


def test_paths_and_planes_are_those_of_wsidicom(web: httpx.Client, tmp_path: Path) -> None:
    layers = [matrix(*SIZE, seed=seed, colour=False) for seed in range(9)]
    frames = [frame for layer in layers for frame in tiles_of(layer, TILE)]
    slide = put(web, tmp_path, [jpeg_frames(frames, Series(), paths=("b", "c", "a"), planes=3)])
    depths = web.get(slide).json()["focal_planes"]["z_um"]
    with WsiDicom.open(tmp_path) as theirs:
        for path, (focal, depth), (y, x) in itertools.product("bca", enumerate(depths), GRID[::7]):
            expected = np.asarray(theirs.read_tile(0, (x, y), z=depth, path=path))
            ours = served(web, slide, x, y, f"path={path}&focal={focal}")
            assert np.array_equal(inside(ours, x, y), inside(expected, x, y)), (path, focal, x, y)


def test_levels_are_those_of_wsidicom(web: httpx.Client, tmp_path: Path) -> None:
    made = make_slide(1500, 1100)
    for index, data in enumerate(made.files):
        (tmp_path / f"{index}.dcm").write_bytes(data)
    assert store(web, *made.files).status_code == 200
    described = web.get(f"/wsi/slides/{made.series}").json()
    with WsiDicom.open(tmp_path) as theirs:
        levels = [(level.size.width, level.size.height, level.mpp.width) for level in theirs.pyramids[0]]
    stored = [level for level in described["levels"] if level["stored"]]
    assert [(level["width"], level["height"], level["mpp"][0]) for level in stored] == levels


@pytest.mark.filterwarnings("ignore:No bulk data URI handler")  # wsidicom asks for metadata, and needs no pixels there
def test_wsidicom_reads_from_the_server(web: httpx.Client, server: RunningServer) -> None:
    made = make_slide(700, 500, levels=2)
    assert store(web, *made.files).status_code == 200
    client = WsiDicomWebClient(DICOMwebClient(server.dicomweb))
    with WsiDicom.open_web(client, made.study, [made.series]) as theirs:
        expected = np.asarray(theirs.read_tile(1, (0, 0)))
    ours = np.asarray(Image.open(BytesIO(web.get(f"/wsi/slides/{made.series}/tiles/1/0/0").content)))
    assert np.array_equal(ours[:250], expected)  # wsidicom cuts what lies beyond the matrix


def test_large_image_as_a_client(server: RunningServer, web: httpx.Client) -> None:
    """large-image reads the slide over DICOMweb, as HistomicsTK and Digital Slide Archive do."""
    made = make_slide(1500, 1100, levels=3)
    assert store(web, *made.files).status_code == 200
    place = {"url": f"{server.url}/dicom-web", "study_uid": made.study, "series_uid": made.series}
    source = large_image_source_dicom.open(place)
    described = source.getMetadata()
    assert (described["sizeX"], described["sizeY"], described["tileWidth"]) == (1500, 1100, 256)
    assert described["mm_x"] == pytest.approx(0.0005)
    for x, y in ((0, 0), (3, 2), (5, 4)):
        tile = np.asarray(source.getTile(x, y, source.levels - 1, numpyAllowed="always"))
        ours = web.get(f"/wsi/slides/{made.series}/tiles/0/{x}/{y}", params={"format": "png"})
        pixels = np.asarray(Image.open(BytesIO(ours.content)).convert("RGB"))
        on_matrix = np.s_[: min(256, 1100 - y * 256), : min(256, 1500 - x * 256)]
        assert np.array_equal(tile[..., :3][on_matrix], pixels[on_matrix])
