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
from tests.files import dataset, encoded, new_uid
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


# -- IIIF


@pytest.mark.parametrize("place", ["frames", "frames-pyramids"])
def test_iiif_of_a_frame(web: httpx.Client, place: str) -> None:
    array = matrix(WIDTH, HEIGHT)
    instance = stored(web, image(array, frames=2))
    at = f"/wsi/iiif/{place}/{instance}/0"
    moved = web.get(at)
    assert (moved.status_code, moved.headers["location"]) == (303, f"{str(web.base_url).rstrip('/')}{at}/info.json")
    described = web.get(f"{at}/info.json")
    info = described.json()
    assert described.headers["content-type"].startswith("application/ld+json")
    assert (info["id"], info["width"], info["height"]) == (moved.headers["location"][:-10], WIDTH, HEIGHT)
    assert info["sizes"] == [
        {"width": 325, "height": 175},
        {"width": 650, "height": 350},
        {"width": WIDTH, "height": HEIGHT},
    ]
    assert web.get(described.url, headers={"If-None-Match": described.headers["etag"]}).status_code == 304

    def asked(request: str, frame: int = 0) -> Matrix:
        return opened(web.get(f"/wsi/iiif/{place}/{instance}/{frame}/{request}"))

    assert np.array_equal(asked("full/max/0/default.png"), array)
    assert np.array_equal(asked("full/max/0/default.png", 1), array[::-1])
    assert np.array_equal(asked("20,10,64,50/max/!90/default.png"), np.rot90(np.fliplr(array[10:60, 20:84]), -1))
    assert np.array_equal(asked("0,0,60,40/max/0/gray.png"), np.asarray(Image.fromarray(array[:40, :60]).convert("L")))
    assert asked("full/max/0/default.jpg").shape == array.shape
    half = asked("full/650,/0/default.png").astype(int)
    means = array.reshape(350, 2, 650, 2, 3).astype(float).mean((1, 3))
    assert half.shape == means.shape
    assert np.abs(half - means).mean() < 8
    picture = web.get(f"{at}/full/100,/0/default.jpg")
    assert web.get(picture.url, headers={"If-None-Match": picture.headers["etag"]}).status_code == 304
    for bad in ("full/max/45/default.jpg", "full/2000,/0/default.jpg", "9999,0,5,5/max/0/default.jpg"):
        answer = web.get(f"{at}/{bad}")
        assert (answer.status_code, answer.json()["OrthancStatus"]) == (400, 3), bad
    for missing in (f"{instance}/2/info.json", f"{instance}/x/info.json", "nonsense/0/info.json",
                    f"{instance}/2/full/max/0/default.jpg"):  # fmt: skip
        assert web.get(f"/wsi/iiif/{place}/{missing}").status_code == 404


def test_manifests_of_images_that_are_no_slides(web: httpx.Client) -> None:
    """Every frame of a series is a canvas, and its picture is where the manifest says; what is no image is left out."""
    study, series = new_uid(), new_uid()
    array = matrix(60, 40, colour=False)
    same: dict[str, Any] = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SeriesDescription": "Scout"}
    instances = [stored(web, image(array, frames=n, InstanceNumber=n, **same)) for n in (1, 2)]
    stored(web, dataset(Rows=None, InstanceNumber=3, **same))
    parent = web.get(f"/instances/{instances[0]}").json()["ParentSeries"]
    answer = web.get(f"/wsi/iiif/series/{parent}/manifest.json")
    manifest = answer.json()
    assert (manifest["type"], manifest["label"]) == ("Manifest", {"none": ["Scout"]})
    assert manifest["id"] == str(answer.url)
    places = [(instances[0], 0), (instances[1], 0), (instances[1], 1)]
    assert len(manifest["items"]) == len(places)
    for (instance, frame), canvas in zip(places, manifest["items"], strict=True):
        body = canvas["items"][0]["items"][0]["body"]
        assert body["service"][0]["id"].endswith(f"/wsi/iiif/frames/{instance}/{frame}")
        assert (canvas["width"], canvas["height"]) == (60, 40)
        assert opened(web.get(body["id"])).shape == array.shape
        assert web.get(body["service"][0]["id"] + "/info.json").json()["width"] == 60
    assert len({canvas["id"] for canvas in manifest["items"]}) == len(places)
    assert web.get(answer.url, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304

    single = web.get(f"/wsi/iiif/frames-pyramids/{instances[1]}/1/manifest.json").json()
    [canvas] = single["items"]
    assert canvas["items"][0]["items"][0]["body"]["service"][0]["id"].endswith(f"/frames-pyramids/{instances[1]}/1")

    report = stored(web, dataset(Rows=None))
    without = web.get(f"/instances/{report}").json()["ParentSeries"]
    assert web.get(f"/wsi/iiif/series/{without}/manifest.json").status_code == 404
