"""OHIF, as it is served here, with what hospitals have: it draws the right pixels, and nothing fails on the way."""

import io
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    MPEG4HP41,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    VideoEndoscopicImageStorage,
    VideoPhotographicImageStorage,
)

from tests.browser import microscopy, series
from tests.browser.conftest import Watched
from tests.browser.ohif import READY, drawn, likeness, opened, prepare, put, recorded, slice_number, windowed
from tests.files import dataset, encoded, new_uid
from tests.support import RunningServer
from tests.wsi.make_slide import make_slide
from wsi import ohif

COUNT = 30
Encoder = Callable[[NDArray[np.uint16]], bytes]


@pytest.fixture(autouse=True, scope="module")
def viewer() -> None:
    assert ohif.installed(), "OHIF is not installed: python -m wsi.ohif"


def _stack(**attributes: object) -> list[Dataset]:
    return series.stack(COUNT, PatientID=f"V-{new_uid()[-10:]}", PatientName="View^Vera", **attributes)


def _ball(shown: NDArray[np.uint8]) -> float:
    """Where the ball is between the left (0) and the right (1) end of the image."""
    red = shown[..., 0].astype(int)
    body = np.flatnonzero((red > 60).any(axis=0))
    bright = np.flatnonzero((red > 160).any(axis=0))
    left, right = body.min(), body.max()
    return float(0.05 + 0.9 * ((bright.min() + bright.max()) / 2 - left) / (right - left))


def _expected(number: int) -> float:
    return 0.3 + 0.4 * (number - 1) / COUNT


async def test_from_the_list_to_the_pixels(watched: Watched, server: RunningServer) -> None:
    images = _stack()
    put(server, *map(encoded, images))
    page = watched.page
    await prepare(watched)
    await page.goto(server.url)
    await page.fill("[name=PatientID]", images[0].PatientID)
    await page.press("[name=PatientID]", "Enter")
    await page.wait_for_function("() => document.querySelectorAll('#results a.open').length === 1")
    assert not await page.is_visible("#without")
    await page.click("#results a.open")
    shown = await drawn(watched)
    assert await page.evaluate("crossOriginIsolated")
    first = await slice_number(watched)
    assert abs(_ball(shown) - _expected(first)) < 0.01
    assert likeness(shown, windowed(images[first - 1], series.pixels(images[first - 1]))) > 0.98

    await page.mouse.move(640, 400)
    for _ in range(12):
        await page.mouse.wheel(0, 100)
        await page.wait_for_timeout(100)
    scrolled = await drawn(watched)
    number = await slice_number(watched)
    assert abs(number - first) >= 8
    assert abs(_ball(scrolled) - _expected(number)) < 0.01
    watched.clean()


async def test_list_of_studies_of_the_viewer(watched: Watched, server: RunningServer) -> None:
    images = _stack(StudyDate="19800101")
    put(server, encoded(images[0]))
    put(server, *(encoded(dataset()) for _ in range(105)))
    await prepare(watched)
    # The archive is asked: of the 101 latest studies that come without a filter it is none.
    await watched.page.goto(f"{server.url}/ohif/?mrn={images[0].PatientID}")
    await watched.page.get_by_text("View, Vera").first.wait_for()
    watched.clean()


def _first_frame(ds: Dataset) -> NDArray[np.generic]:
    if ds.file_meta.TransferSyntaxUID == JPEGLosslessSV1:  # pydicom has no decoder of its own for it
        return np.asarray(imagecodecs.ljpeg_decode(get_frame(ds.PixelData, 0, number_of_frames=ds.NumberOfFrames)))
    return ds.pixel_array[0] if int(ds.get("NumberOfFrames", 1)) > 1 else ds.pixel_array


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small.dcm", "emri_small.dcm", "examples_ybr_color.dcm", "JPEG2000.dcm", "JPEG-LL.dcm"]
)
async def test_files_of_others(watched: Watched, server: RunningServer, name: str) -> None:
    ds = pydicom.dcmread(str(get_testdata_file(name)))
    reference = _first_frame(ds)
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = new_uid(), new_uid(), new_uid()
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    out = io.BytesIO()
    ds.save_as(out)
    put(server, out.getvalue())
    await opened(watched, server, ds.StudyInstanceUID)
    if "WindowCenter" in ds:
        reference = windowed(ds, reference)
    assert likeness(await drawn(watched), reference) > 0.9
    watched.clean()


def _rle(values: NDArray[np.uint16]) -> bytes:
    from pydicom.pixels.encoders.base import RLELosslessEncoder

    options = {"rows": values.shape[0], "columns": values.shape[1], "samples_per_pixel": 1, "number_of_frames": 1}
    described = {"bits_allocated": 16, "bits_stored": 12, "pixel_representation": 0}
    return RLELosslessEncoder.encode(
        values.tobytes(), photometric_interpretation="MONOCHROME2", **options, **described, encoding_plugin="pydicom"
    )


_ENCODERS: dict[str, Encoder] = {
    RLELossless: _rle,
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: lambda values: imagecodecs.jpeg2k_encode(values, codecformat="j2k", reversible=True),
    HTJ2KLossless: lambda values: imagecodecs.htj2k_encode(values, reversible=True),
}


@pytest.mark.full
@pytest.mark.parametrize("syntax", _ENCODERS, ids=lambda uid: pydicom.uid.UID(uid).keyword)
async def test_frames_as_stored_are_decoded(watched: Watched, server: RunningServer, syntax: str) -> None:
    [image] = series.stack(1, noise=30)
    reference = series.pixels(image)
    image.PixelData = encapsulate([_ENCODERS[syntax](reference)])
    put(server, encoded(image, syntax))
    await opened(watched, server, image.StudyInstanceUID)
    assert likeness(await drawn(watched), windowed(image, reference)) > 0.97
    watched.clean()


@pytest.mark.full
async def test_study_of_several_series(watched: Watched, server: RunningServer) -> None:
    files = sorted(Path(str(get_testdata_file("DICOMDIR"))).parent.glob("98892003/MR*/*"))
    read = [(pydicom.dcmread(path, stop_before_pixels=True), path.read_bytes()) for path in files]
    study = Counter(ds.StudyInstanceUID for ds, _ in read).most_common(1)[0][0]
    chosen = [(ds, file) for ds, file in read if ds.StudyInstanceUID == study]
    count = len({ds.SeriesInstanceUID for ds, _ in chosen})
    assert count > 1
    put(server, *(file for _, file in chosen))
    await opened(watched, server, study)
    thumbnails = watched.page.locator("[data-cy=study-browser-thumbnail]")
    await watched.page.wait_for_function(
        "(count) => document.querySelectorAll('[data-cy=study-browser-thumbnail] img').length === count", arg=count
    )
    before = await drawn(watched)
    await thumbnails.nth(1).dblclick()
    await watched.page.wait_for_timeout(1500)
    assert not np.array_equal(await drawn(watched), before)
    watched.clean()


@pytest.mark.full
async def test_planes_through_the_stack(watched: Watched, server: RunningServer) -> None:
    images = _stack()
    put(server, *map(encoded, images))
    await opened(watched, server, images[0].StudyInstanceUID)
    await watched.page.click("[data-cy=Layout]")
    await watched.page.click("[data-cy=MPR]")
    await watched.page.wait_for_function(f"() => document.querySelectorAll('{READY}').length === 3")
    await watched.page.wait_for_timeout(3000)
    coronal = (await drawn(watched, 2))[..., 0].astype(int)
    # The ball, which moves from slice to slice, is an oblique band: its ends are far apart.
    rows, columns = np.nonzero(coronal > 160)
    assert columns[rows < np.median(rows)].mean() != pytest.approx(columns[rows > np.median(rows)].mean(), abs=20)
    watched.clean()


@pytest.mark.full
async def test_segmentation_is_laid_over_the_image(watched: Watched, server: RunningServer) -> None:
    images = _stack()
    put(server, *map(encoded, images), series.segmentation(images))
    await opened(watched, server, images[0].StudyInstanceUID)
    before = await drawn(watched)
    assert np.ptp(before.astype(int), axis=2).max() <= 2  # grey
    await _open_other(watched, "SEG")
    await watched.page.get_by_text("Yes", exact=True).click()
    for _ in range(20):
        coloured = np.ptp((await drawn(watched)).astype(int), axis=2) > 30
        if coloured.any():
            break
    image = before[..., 0].astype(int) > 160
    assert (coloured & image).sum() / (coloured | image).sum() > 0.9  # exactly the ball
    watched.clean()


@pytest.mark.full
async def test_previews_are_the_thumbnails_of_the_archive(watched: Watched, server: RunningServer) -> None:
    images = _stack()
    study = {"StudyInstanceUID": images[0].StudyInstanceUID, "PatientID": images[0].PatientID}
    colour = dataset(**study, SOPClassUID=SecondaryCaptureImageStorage, Modality="OT", SeriesNumber=2)
    colour.Rows, colour.Columns, colour.SamplesPerPixel, colour.PlanarConfiguration = 64, 64, 3, 0
    colour.BitsAllocated, colour.BitsStored, colour.HighBit, colour.PhotometricInterpretation = 8, 8, 7, "RGB"
    colour.PixelData = bytes((240, 0, 0)) * 64 * 64
    put(server, *map(encoded, (*images, colour)), series.segmentation(images), series.report(images))
    asked: list[str] = []
    watched.page.on("request", lambda request: asked.append(request.url))
    await opened(watched, server, images[0].StudyInstanceUID)
    previews = watched.page.locator("[data-cy=study-browser-thumbnail] img")
    await watched.page.wait_for_function(
        "() => [...document.querySelectorAll('[data-cy=study-browser-thumbnail] img')]"
        ".filter((image) => image.naturalWidth > 0).length === 2"
    )
    sources = [str(await image.get_attribute("src")) for image in await previews.all()]
    assert all("/thumbnail?" in source for source in sources)
    assert await watched.page.locator("[data-cy=study-browser-thumbnail-no-image]").count() == 2  # SEG and SR
    # What is not looked at is not fetched.
    assert not [url for url in asked if colour.SeriesInstanceUID in url and "/frames/" in url]
    watched.clean()


@pytest.mark.full
async def test_outlines(watched: Watched, server: RunningServer) -> None:
    images = _stack()
    put(server, *map(encoded, images), series.structures(images))
    await opened(watched, server, images[0].StudyInstanceUID)
    await _open_other(watched, "RTSTRUCT")
    await watched.page.get_by_text("Yes", exact=True).click()
    path = watched.page.locator("svg.svg-layer path").first
    await path.wait_for(state="attached")
    assert re.search(r"255,\s*0,\s*0", str(await path.get_attribute("stroke")))
    watched.clean()


@pytest.mark.full
async def test_report(watched: Watched, server: RunningServer) -> None:
    images = _stack()
    put(server, *map(encoded, images), series.report(images))
    await opened(watched, server, images[0].StudyInstanceUID)
    await _open_other(watched, "SR")
    await watched.page.locator("svg.svg-layer text").filter(has_text="60.00 mm").wait_for(state="attached")
    assert await slice_number(watched) == COUNT // 2 + 1
    watched.clean()


@pytest.mark.full
async def test_document(watched: Watched, server: RunningServer) -> None:
    images = _stack()
    put(server, *map(encoded, images), series.pdf(images))
    await opened(watched, server, images[0].StudyInstanceUID)
    await _open_other(watched, "DOC")
    shown = watched.page.locator('object[type="application/pdf"]')
    await shown.wait_for()
    head = await watched.page.evaluate(
        "async (url) => (await (await fetch(url)).text()).slice(0, 8)", await shown.get_attribute("data")
    )
    assert head == "%PDF-1.4"
    watched.clean()


@pytest.mark.full
@pytest.mark.parametrize("sop_class", [VideoPhotographicImageStorage, VideoEndoscopicImageStorage])
async def test_video(watched: Watched, server: RunningServer, sop_class: str) -> None:
    """OHIF takes only the first class for video by itself, others by the transfer syntax in their metadata."""
    await watched.page.goto(server.url)
    film = await recorded(watched)
    assert film[4:8] == b"ftyp"
    ds = dataset(SOPClassUID=sop_class, Modality="XC", NumberOfFrames=50, PatientID=new_uid()[-10:])
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PlanarConfiguration = 240, 320, 3, 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PhotometricInterpretation, ds.CineRate, ds.FrameTime = 7, "YBR_PARTIAL_420", 25, 40
    ds.PixelData = encapsulate([film + b"\0" * (len(film) % 2)], has_bot=False)
    put(server, encoded(ds, MPEG4HP41))
    statuses: list[int] = []
    watched.page.on("response", lambda answer: statuses.append(answer.status) if "bulkdata" in answer.url else None)
    await opened(watched, server, ds.StudyInstanceUID)
    middle = (await drawn(watched))[200:300, 400:600].reshape(-1, 3).mean(axis=0)
    assert middle == pytest.approx([240, 0, 0], abs=25)
    # Not the whole film at once: the browser asks for the ranges that it plays.
    assert statuses
    assert set(statuses) == {206}
    watched.clean()


async def _open_other(watched: Watched, modality: str) -> None:
    """Open an object that has no thumbnail."""
    entry = watched.page.locator("[data-cy=study-browser-thumbnail-no-image]").filter(has_text=modality)
    await entry.wait_for()
    await entry.dblclick()


@pytest.mark.full
async def test_length_is_measured_and_kept(watched: Watched, server: RunningServer) -> None:
    images = _stack()
    study = images[0].StudyInstanceUID
    put(server, *map(encoded, images))
    page = watched.page
    await opened(watched, server, study)
    await page.click("[data-cy=Length]")
    box = await page.locator(".cornerstone-viewport-element").first.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    await page.mouse.move(x - 100, y)
    await page.mouse.down()
    await page.mouse.move(x, y, steps=5)
    await page.mouse.move(x + 100, y, steps=5)
    await page.mouse.up()
    await page.get_by_text("Yes", exact=True).click()
    await page.click("[data-cy=trackedMeasurements-btn]")
    await page.get_by_text("Create SR").click()
    await page.get_by_placeholder("Report name").fill("By the test")
    async with page.expect_response(lambda answer: answer.request.method == "POST") as posted:
        await page.get_by_role("button", name="Save").click()
    assert (await posted.value).status == 200
    kept = _kept(server, study)
    assert kept.SeriesDescription == "By the test"
    lengths = [
        float(item.MeasuredValueSequence[0].NumericValue)
        for _, item in _items(kept)
        if item.get("ValueType") == "NUM" and item.ConceptNameCodeSequence[0].CodeMeaning == "Length"
    ]
    # 200 pixels of the screen, of which the viewport's height shows 128 mm.
    assert lengths == [pytest.approx(200 * 128 / box["height"], rel=0.02)]
    watched.clean()


def _kept(server: RunningServer, study: str) -> Dataset:
    """The one report of the study, as the archive gives it out."""
    with httpx.Client(base_url=server.dicomweb) as web:
        [found] = web.get(f"/studies/{study}/instances", params={"Modality": "SR"}).json()
        series_uid, sop = found["0020000E"]["Value"][0], found["00080018"]["Value"][0]
        url = f"/studies/{study}/series/{series_uid}/instances/{sop}"
        return pydicom.dcmread(io.BytesIO(web.get(url, headers={"Accept": "application/dicom"}).content))


def _items(ds: Dataset) -> list[tuple[int, Dataset]]:
    """All content items of a report, with their depth."""
    found = []
    for item in ds.get("ContentSequence", []):
        found.append((0, item))
        found += [(depth + 1, below) for depth, below in _items(item)]
    return found


@pytest.mark.full
@pytest.mark.parametrize(("size", "corner"), [((3002, 2206), "first"), ((1702, 2606), "last")])
async def test_slide_in_the_microscopy_mode(
    watched: Watched, server: RunningServer, size: tuple[int, int], corner: str
) -> None:
    """The right pixels at three zooms, read from the canvas, up to the edges of the slide and not beyond."""
    made = make_slide(*size, levels=4, PatientID=f"V-{new_uid()[-10:]}")
    put(server, *made.files)
    await prepare(watched)
    await watched.page.add_init_script(microscopy.READABLE)
    await watched.page.goto(f"{server.url}/ohif/microscopy?StudyInstanceUIDs={made.study}")
    shown = [microscopy.place_of(await microscopy.drawn(watched), made)]
    assert shown[0].whole
    for _ in range(2):
        await microscopy.closer(watched, shown[-1].first if corner == "first" else shown[-1].last)
        shown.append(microscopy.place_of(await microscopy.drawn(watched), made))
        assert not shown[-1].whole
        assert shown[-1].sees_first if corner == "first" else shown[-1].sees_last
    assert [each.scale for each in shown] == pytest.approx([shown[0].scale * by for by in (1, 2, 4)], rel=0.02)
    levels = [each.level for each in shown]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > levels[-1] == 0
    watched.clean()
