"""Frames of instances that are no slides as pyramids of tiles, as Orthanc has them."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset

from dicomweb.uids import orthanc_ids
from tests.files import dataset, encoded
from tests.http.bodies import store
from tests.wsi.variants import Matrix, matrix

WIDTH, HEIGHT = 1300, 700
PADDED = (1344, 704)


def image(array: Matrix, frames: int = 1, **attributes: Any) -> Dataset:
    colour = array.ndim == 3
    said: dict[str, Any] = dict(
        Rows=array.shape[0],
        Columns=array.shape[1],
        SamplesPerPixel=3 if colour else 1,
        PhotometricInterpretation="RGB" if colour else "MONOCHROME2",
        **({"PlanarConfiguration": 0} if colour else {}),
        BitsAllocated=8 * array.dtype.itemsize,
        BitsStored=8 * array.dtype.itemsize,
        HighBit=8 * array.dtype.itemsize - 1,
        PixelRepresentation=0,
        NumberOfFrames=frames,
        PixelData=array.tobytes() * (frames - 1) + array[::-1].tobytes(),
    )
    return dataset(**said | attributes)


def stored(web: httpx.Client, ds: Dataset) -> str:
    assert store(web, encoded(ds)).status_code in {200, 202}
    return orthanc_ids(ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID).instance


def opened(answer: httpx.Response) -> Matrix:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(BytesIO(answer.content)))


def padded(array: Matrix, size: tuple[int, int], fill: int) -> Matrix:
    found = np.full((size[1], size[0], *array.shape[2:]), fill, np.uint8)
    found[: array.shape[0], : array.shape[1]] = array
    return found


@pytest.mark.parametrize("colour", [True, False])
def test_every_level_of_a_frame(web: httpx.Client, colour: bool) -> None:
    array, fill = matrix(WIDTH, HEIGHT, colour=colour), 255 if colour else 0
    instance = stored(web, image(array, frames=2))
    found = web.get(f"/wsi/frames-pyramids/{instance}/1").json()
    assert found == {
        "ID": instance,
        "FrameNumber": 1,
        "Resolutions": [1.0, 2.0, 4.0],
        "Sizes": [[1344, 704], [672, 352], [336, 176]],
        "TilesCount": [[3, 2], [2, 1], [1, 1]],
        "TilesSizes": [[512, 512]] * 3,
        "TotalWidth": 1344,
        "TotalHeight": 704,
        "BackgroundColor": "#ffffff" if colour else "#000000",
    }
    for frame, shown in ((0, array), (1, array[::-1])):
        whole = padded(shown, PADDED, fill).astype(float)
        for z, (across, down) in enumerate(found["TilesCount"]):
            factor = 1 << z
            shape = whole.shape[0] // factor, factor, whole.shape[1] // factor, factor, *whole.shape[2:]
            expected = padded(np.floor(whole.reshape(shape).mean((1, 3)) + 0.5), (512 * across, 512 * down), fill)
            for x, y in itertools.product(range(across), range(down)):
                answer = web.get(f"/wsi/frames-tiles/{instance}/{frame}/{z}/{x}/{y}")
                assert answer.headers["content-type"] == "image/png"
                part = expected[512 * y : 512 * y + 512, 512 * x : 512 * x + 512]
                assert np.abs(opened(answer).astype(int) - part).max() <= (1 if z else 0), (z, x, y)


def test_deep_shades_are_windowed_as_a_whole(web: httpx.Client) -> None:
    array = matrix(600, 300, bits=16, colour=False)
    instance = stored(web, image(array, WindowCenter="30000", WindowWidth="20001"))
    tiles = [opened(web.get(f"/wsi/frames-tiles/{instance}/0/0/{x}/0")) for x in range(2)]
    expected = np.rint(np.clip((array[::-1].astype(float) - 19999.5) / 20000, 0, 1) * 255)
    shown = np.concatenate(tiles, axis=1)[:300, :600]
    assert np.abs(shown.astype(int) - expected).max() <= 1


def test_types_and_caching(web: httpx.Client) -> None:
    array = matrix(WIDTH, HEIGHT)
    instance = stored(web, image(array))
    place = f"/wsi/frames-tiles/{instance}/0/0/1/0"
    jpeg = web.get(place, headers={"Accept": "image/jpeg"})
    assert (jpeg.headers["content-type"], jpeg.headers["vary"]) == ("image/jpeg", "Accept")
    assert np.abs(opened(jpeg).astype(int) - array[::-1][:512, 512:1024]).mean() < 4
    png = web.get(place)
    assert png.headers["etag"] != jpeg.headers["etag"]
    again = web.get(place, headers={"If-None-Match": png.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    described = web.get(f"/wsi/frames-pyramids/{instance}/0")
    again = web.get(described.url.path, headers={"If-None-Match": described.headers["etag"]})
    assert again.status_code == 304
    assert web.get(place, headers={"Accept": "image/jp2"}).status_code == 406
    with ThreadPoolExecutor(8) as pool:
        bodies = {answer.content for answer in pool.map(lambda _: web.get(place), range(16))}
    assert bodies == {png.content}


def test_what_is_not_there(web: httpx.Client) -> None:
    ds = image(matrix(64, 64))
    instance = stored(web, ds)
    for path in (
        f"frames-pyramids/{instance}/1",
        f"frames-pyramids/{instance}/-1",
        f"frames-pyramids/{instance}/9999999999",
        "frames-pyramids/nonsense/0",
        "frames-pyramids/00000000-00000000-00000000-00000000-00000000/0",
        f"frames-tiles/{instance}/0/1/0/0",
        f"frames-tiles/{instance}/0/0/1/0",
        f"frames-tiles/{instance}/0/0/0/1",
    ):
        answer = web.get(f"/wsi/{path}")
        assert (answer.status_code, answer.json()["OrthancStatus"]) == (404, 17), path
    assert web.get(f"/wsi/frames-tiles/{instance}/0/0/0/0").status_code == 200
    assert web.delete(f"/dicom-web/studies/{ds.StudyInstanceUID}").status_code < 300
    assert web.get(f"/wsi/frames-tiles/{instance}/0/0/0/0").status_code == 404


def test_an_instance_that_is_no_image(web: httpx.Client) -> None:
    instance = stored(web, dataset(Rows=None))
    for path in (f"frames-pyramids/{instance}/0", f"frames-tiles/{instance}/0/0/0/0"):
        assert web.get(f"/wsi/{path}").status_code == 404
    broken = stored(web, image(matrix(64, 64, colour=False), PhotometricInterpretation="CMYK", SamplesPerPixel=4))
    assert web.get(f"/wsi/frames-pyramids/{broken}/0").status_code in {404, 422}
