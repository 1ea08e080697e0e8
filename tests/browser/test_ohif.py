"""OHIF as it comes from npm, on a running archive: real pixels, scrolling, and nothing that fails."""

import asyncio
import shutil
from io import BytesIO

import httpx
import imagecodecs
import numpy as np
import pytest
from PIL import Image
from playwright.async_api import Page
from pydicom import dcmread

from tests.browser.conftest import Watched
from tests.files import compressed, ct, new_uid
from tests.http.bodies import store
from tests.http.test_transcoding import file_of
from tests.support import RunningServer
from wsi.ohif import OHIF

if shutil.which("npm") is not None:
    assert OHIF.is_installed, "npm is there, but the set-up did not install OHIF"
pytestmark = pytest.mark.skipif(not OHIF.is_installed, reason="OHIF is not installed: there is no npm")

SLICES = 30


def phantom(number: int) -> np.ndarray:
    """A disc whose radius and place tell the slice."""
    y, x = np.mgrid[:128, :128]
    disc = (x - 40 - number) ** 2 + (y - 64) ** 2 < (8 + number) ** 2
    return np.where(disc, 1200, 200 + 4 * number).astype("<u2")


@pytest.fixture(scope="session")
def stack(server: RunningServer) -> str:
    """The UID of a study with a CT volume of 30 slices."""
    study, series, frame_of_reference = new_uid(), new_uid(), new_uid()
    files = [
        ct(
            StudyInstanceUID=study,
            SeriesInstanceUID=series,
            FrameOfReferenceUID=frame_of_reference,
            InstanceNumber=n + 1,
            Rows=128,
            Columns=128,
            PixelSpacing=[1, 1],
            SliceThickness=2,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[-64, -64, 2 * n],
            WindowCenter=700,
            WindowWidth=1400,
            PixelData=phantom(n).tobytes(),
        )
        for n in range(SLICES)
    ]
    with httpx.Client(base_url=server.url, timeout=60) as web:
        assert store(web, *files).status_code == 200
    return study


async def open_viewer(page: Page, server: RunningServer, study: str) -> None:
    await page.goto(f"{server.url}/ohif/viewer?StudyInstanceUIDs={study}", wait_until="domcontentloaded")
    await page.wait_for_selector("canvas.cornerstone-canvas", timeout=60_000)
    tour = page.get_by_text("Skip all")  # what OHIF shows to new users lies over the picture
    await tour.wait_for(timeout=20_000)
    await tour.click()


async def picture(page: Page, index: int = 0) -> np.ndarray:
    """What a viewport shows, in gray."""
    shot = await page.locator("canvas.cornerstone-canvas").nth(index).screenshot()
    return np.asarray(Image.open(BytesIO(shot)).convert("L")).astype(int)


async def shown(page: Page, index: int = 0) -> np.ndarray:
    """Wait for pixels that are not all alike, then for two pictures that are."""
    last = await picture(page, index)
    for _ in range(120):
        await asyncio.sleep(0.5)
        now = await picture(page, index)
        if now.shape == last.shape and np.array_equal(now, last) and now.std() > 5:
            return now
        last = now
    raise AssertionError("the viewport stays empty")


@pytest.mark.timeout(300)
async def test_ohif_opens_from_the_study_list_and_scrolls_through_real_pixels(
    watched: Watched, server: RunningServer, stack: str
) -> None:
    page = watched.page
    await page.goto(server.url)
    link = page.locator(f'tr[data-study="{stack}"] a')
    await link.first.wait_for()
    assert (await link.first.get_attribute("href")).endswith(f"/ohif/viewer?StudyInstanceUIDs={stack}")
    await open_viewer(page, server, stack)
    first = await shown(page)
    assert await page.evaluate("crossOriginIsolated")
    viewport = page.locator("canvas.cornerstone-canvas").first
    box = await viewport.bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    for _ in range(10):
        await page.mouse.wheel(0, 100)
        await asyncio.sleep(0.1)
    later = await shown(page)
    assert (np.abs(later - first) > 40).sum() > 500  # the disc has moved and grown
    assert watched.failed == []
    assert watched.errors == []


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [
        "693_J2KR.dcm", "JPEG-LL.dcm", "OBXXXX1A_rle_2frame.dcm", "US1_J2KR.dcm", "emri_small_jpeg_ls_lossless.dcm",
        "examples_ybr_color.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm",
    ],
)  # fmt: skip
async def test_ohif_shows_what_is_stored_in_every_syntax(watched: Watched, server: RunningServer, name: str) -> None:
    file = file_of(name)
    study = dcmread(BytesIO(file), stop_before_pixels=True).StudyInstanceUID
    with httpx.Client(base_url=server.url, timeout=60) as web:
        assert store(web, file).status_code == 200
    await open_viewer(watched.page, server, study)
    await shown(watched.page)
    assert watched.failed == []


@pytest.mark.full
@pytest.mark.timeout(600)
async def test_ohif_shows_jpeg_xl_because_the_archive_sends_something_else(
    watched: Watched, server: RunningServer
) -> None:
    pixels = np.hypot(*np.mgrid[-64:64, -64:64]).astype(np.uint16) * 30
    stream = bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, effort=1, usecontainer=False, bitspersample=12))
    kind = {"Rows": 128, "Columns": 128, "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}
    study = new_uid()
    file = compressed([stream], "1.2.840.10008.1.2.4.110", StudyInstanceUID=study, **kind)
    with httpx.Client(base_url=server.url, timeout=60) as web:
        assert store(web, file).status_code == 200
    await open_viewer(watched.page, server, study)
    await shown(watched.page)
    assert watched.failed == []


@pytest.mark.full
@pytest.mark.timeout(300)
async def test_ohif_reformats_a_volume(watched: Watched, server: RunningServer, stack: str) -> None:
    page = watched.page
    await open_viewer(page, server, stack)
    await shown(page)
    await page.locator('[data-cy="Layout"]').click()
    await page.locator('[data-cy="MPR"]').click()
    await page.wait_for_function("() => document.querySelectorAll('canvas.cornerstone-canvas').length === 3")
    for index in range(3):
        await shown(page, index)
    assert watched.failed == []
