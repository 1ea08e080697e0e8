"""The slide viewer in a real browser: its canvas against the region endpoint, keys, address, panel."""

import asyncio
import base64
import json
import math
import re
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.async_api import Page, Route
from pydicom import dcmread

from dicomweb.rendered.profiles import standard_profile
from tests.browser.conftest import Watched
from tests.files import ct, new_uid
from tests.http.bodies import store
from tests.support import RunningServer, running_server
from tests.wsi.annotations import bulk, circles
from tests.wsi.make_slide import Slide, make_slide
from tests.wsi.segmentations import segmentation
from tests.wsi.variants import JPEG, Matrix, Place, Series, file, instance, jpeg, matrix, tiles_of
from wsi.openlayers import installed

WIDTH, HEIGHT = 1501, 1103


@pytest.fixture(autouse=True)
def openlayers() -> None:
    assert installed(), "OpenLayers is not installed: python -m wsi.openlayers"


@pytest.fixture(scope="module")
def slide(server: RunningServer) -> Slide:
    """Three levels whose sizes are rounded, with a label image."""
    made = make_slide(WIDTH, HEIGHT)
    label = instance(
        Series(made.study, made.series), [np.full((60, 80, 3), 200, np.uint8)], (80, 60),
        ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"], PatientName="Slide^Sample", PatientID="SLIDE-1",
        BurnedInAnnotation="YES", SeriesDescription="Place as colour",
    )  # fmt: skip
    with httpx.Client(base_url=server.url, timeout=60) as web:
        assert store(web, *made.files, file(label)).status_code == 200
    return made


async def opened(page: Page, url: str, series: str, view: str = "") -> None:
    await page.goto(f"{url}/wsi/viewer/?series={series}{view}")
    await page.wait_for_selector("body[data-ready]")
    await drawn(page)


async def drawn(page: Page) -> None:
    """Wait until every tile of the view is there, and none of an earlier one shows through."""
    await page.evaluate(
        """async () => {
            await new Promise((done) => { viewer.map.once('rendercomplete', done); viewer.map.render(); });
            await new Promise((done) => setTimeout(done, 300));
            await new Promise((done) => { viewer.map.once('rendercomplete', done); viewer.map.render(); });
        }"""
    )


async def canvas(page: Page, selector: str = "#map .ol-layer canvas") -> Matrix:
    """What a layer has drawn: (rows, columns, 4)."""
    url = await page.evaluate("(selector) => document.querySelector(selector).toDataURL('image/png')", selector)
    return np.asarray(Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA"))


def region(server: RunningServer, series: str, place: tuple[float, ...], size: tuple[int, int], **query: Any) -> Matrix:
    """The same part of the slide, made by the server."""
    where = {
        "region": ",".join(f"{value:.3f}" for value in place),
        "width": str(size[0]),
        "height": str(size[1]),
        "format": "png",
    }
    answer = httpx.get(f"{server.url}/wsi/slides/{series}/region", params=where | query)
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(BytesIO(answer.content)).convert("RGB"))


@pytest.mark.parametrize("downsample", [0.8, 2.4, 4.5])
async def test_canvas_shows_what_the_region_endpoint_gives(
    watched: Watched, server: RunningServer, slide: Slide, downsample: float
) -> None:
    x, y = 700, 520
    await opened(watched.page, server.url, slide.series, f"#x={x}&y={y}&downsample={downsample}")
    shown = await canvas(watched.page)
    # A part in the middle, so that at the coarsest zoom it lies within the slide too.
    half = (min(150, int(600 / downsample)), min(120, int(450 / downsample)))
    middle = shown.shape[1] // 2, shown.shape[0] // 2
    part = shown[middle[1] - half[1] : middle[1] + half[1], middle[0] - half[0] : middle[0] + half[0]]
    offset = [(side / 2 - side // 2) * downsample for side in (shown.shape[1], shown.shape[0])]
    place = (
        x - offset[0] - half[0] * downsample, y - offset[1] - half[1] * downsample,
        2 * half[0] * downsample, 2 * half[1] * downsample,
    )  # fmt: skip
    wanted = region(server, slide.series, place, (2 * half[0], 2 * half[1]))
    assert (part[..., 3] == 255).all()
    difference = np.abs(part[..., :3].astype(int) - wanted.astype(int))
    # Red and green say the place (two pixels of the finest level are less than one step), blue the level. The dark
    # lines between tiles are drawn by two resamplers.
    assert np.median(difference) <= 2
    assert np.percentile(difference, 97) <= 8, np.percentile(difference, [50, 90, 97, 99])
    watched.clean()


async def test_no_hole_at_the_edges(watched: Watched, server: RunningServer, slide: Slide) -> None:
    for downsample in (0.5, 1.7, 3.1):
        for x, y in ((0, 0), (WIDTH, HEIGHT)):
            await opened(watched.page, server.url, slide.series, f"#x={x}&y={y}&downsample={downsample}")
            shown = await canvas(watched.page)
            rows, columns = shown.shape[:2]
            reach = 100
            side = (
                slice(columns // 2 + 1, columns // 2 + reach)
                if x == 0
                else slice(columns // 2 - reach, columns // 2 - 1)
            )
            down = slice(rows // 2 + 1, rows // 2 + reach) if y == 0 else slice(rows // 2 - reach, rows // 2 - 1)
            part = shown[down, side].astype(int)
            assert (part[..., 3] == 255).all(), (downsample, x)
            corner = max(0, x - reach * downsample), max(0, y - reach * downsample)
            wanted = region(server, slide.series, (*corner, reach * downsample, reach * downsample), (reach, reach))
            assert np.abs(np.median(part, axis=(0, 1))[:2] - np.median(wanted, axis=(0, 1))[:2]).max() <= 3
            # Nothing of the slide beyond its edge.
            outside = (
                shown[down, columns // 2 - 60 : columns // 2 - 3]
                if x == 0
                else shown[down, columns // 2 + 3 : columns // 2 + 60]
            )
            assert (outside[..., 3] == 0).all()
    watched.clean()


async def test_whole_slide_readings_and_overview(watched: Watched, server: RunningServer, slide: Slide) -> None:
    page = watched.page
    await page.goto(f"{server.url}/slides/{slide.series}")  # an old link
    await page.wait_for_selector("body[data-ready]")
    assert "/wsi/viewer/?series=" in page.url
    assert await page.inner_text("#title") == "Slide, Sample · Place as colour"
    assert await page.inner_text("#status") == ""
    facts = await page.inner_text("#panel details >> nth=0")
    assert "1,501 × 1,103 pixels" in facts
    assert "0.75 × 0.55 mm" in facts
    assert "0.5 µm/pixel" in facts
    scale = await page.inner_text("#scale-text")
    match = re.fullmatch(r"(\d+) µm", scale)
    assert match
    bar = await page.evaluate("document.getElementById('scale-bar').getBoundingClientRect().width")
    resolution = await page.evaluate("viewer.map.getView().getResolution()")
    assert bar == pytest.approx(int(match[1]) / (resolution * 0.5), abs=0.6)
    assert await page.inner_text("#magnification") == f"{20 / resolution:.3g}× · {resolution / 2:.3g} µm/pixel"
    overview = await page.evaluate("[document.querySelector('#overview img').naturalWidth, overview.clientWidth]")
    assert overview[0] >= overview[1] > 100
    # A click in the overview moves the view there.
    await page.click("#overview", position={"x": overview[1] * 0.25, "y": 20})
    center = await page.evaluate("viewer.map.getView().getCenter()")
    assert center[0] == pytest.approx(WIDTH * 0.25, rel=0.05)
    watched.clean()


async def test_keys_and_address(watched: Watched, server: RunningServer, slide: Slide) -> None:
    page = watched.page
    await opened(page, server.url, slide.series)
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.className") == "skip"
    await page.focus("#map")
    view = "(() => { const v = viewer.map.getView(); return [v.getCenter(), v.getResolution(), v.getRotation()]; })()"

    async def state() -> Any:
        await page.wait_for_timeout(50)
        await page.wait_for_function("() => !viewer.map.getView().getAnimating()")
        return await page.evaluate(view)

    before = await state()
    await page.keyboard.press("+")
    zoomed = await state()
    assert zoomed[1] == pytest.approx(before[1] / 2)
    await page.keyboard.press("ArrowRight")
    moved = await state()
    assert moved[0][0] > zoomed[0][0]
    await page.keyboard.press("]")
    turned = await state()
    assert turned[2] == pytest.approx(math.pi / 12)
    await page.wait_for_selector("#upright")
    await page.wait_for_function("() => location.hash.includes('rotation=15')")
    await drawn(page)
    # Whoever opens the address sees the same.
    address = page.url
    await page.goto("about:blank")
    await page.goto(address)
    await page.wait_for_selector("body[data-ready]")
    again = await page.evaluate(view)
    assert again[0] == pytest.approx(turned[0], abs=0.2)
    assert again[1:] == pytest.approx(turned[1:], rel=1e-3)
    await page.focus("#map")
    await page.keyboard.press("u")
    assert (await state())[2] == 0
    await page.keyboard.press("1")
    assert (await state())[1] == 1
    await page.keyboard.press("0")
    assert (await state())[1] == pytest.approx(before[1])
    # An address that somebody edits moves the open page.
    await page.evaluate("location.hash = '#x=300&y=200&downsample=2'")
    assert await state() == [[300, -200], 2, 0]
    await page.click("#help-open")
    assert await page.is_visible("#help")
    await page.keyboard.press("Escape")
    assert not await page.is_visible("#help")
    watched.clean()


async def test_label_is_shown_unless_identifiers_are_hidden(
    watched: Watched, server: RunningServer, slide: Slide, tmp_path: Any
) -> None:
    page = watched.page
    await opened(page, server.url, slide.series)
    await page.wait_for_function("() => document.querySelector('[data-image=label] img')?.naturalWidth === 80")
    watched.clean()
    with running_server(tmp_path, workers=1, viewer_identifiers=False) as other:
        with httpx.Client(base_url=other.url, timeout=60) as web:
            assert store(web, *slide.files).status_code == 200
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await opened(page, other.url, slide.series)
        await page.wait_for_function("() => document.getElementById('title').textContent !== ''")
        assert await page.inner_text("#title") == "Place as colour"
        assert await page.locator("[data-image]").count() == 0
        assert not any("/rendered" in url for url in asked)
        watched.clean()


@pytest.fixture(scope="module")
def fluorescence(server: RunningServer) -> tuple[str, dict[tuple[str, int], Matrix]]:
    """Two paths in three focal planes of 16 bits; the matrices by path and plane."""
    series, frames, found = Series(), [], {}
    for path in ("DAPI", "FITC"):
        for plane in range(3):
            shades = matrix(300, 200, seed=len(found), bits=16, colour=False) // (2 + plane)
            found[path, plane] = shades
            frames += tiles_of(shades, 128, 0)
    made = instance(series, frames, (300, 200), paths=("DAPI", "FITC"), planes=3)
    with httpx.Client(base_url=server.url, timeout=60) as web:
        assert store(web, file(made)).status_code == 200
    return series.series, found


async def test_channels_add_up_and_focal_planes_change(
    watched: Watched, server: RunningServer, fluorescence: tuple[str, dict[tuple[str, int], Matrix]]
) -> None:
    page, (series, shades) = watched.page, fluorescence
    await opened(page, server.url, series, "#x=150&y=100&downsample=0.5")

    async def spot(channel: int) -> float:
        await drawn(page)
        shown = await canvas(page, f"#map .channel-{channel} canvas")
        rows, columns = shown.shape[0] // 2, shown.shape[1] // 2
        return float(shown[rows - 20 : rows + 20, columns - 20 : columns + 20, 2 - channel].mean())

    def wanted(path: str, plane: int, low: float = 0, high: float = 65535) -> float:
        part = shades[path, plane][90:110, 140:160].astype(float)
        return float(np.clip((part - low) / (high - low), 0, 1).mean()) * 255

    # Blue and green, as the manifest says.
    assert await spot(0) == pytest.approx(wanted("DAPI", 1), abs=4)
    assert await spot(1) == pytest.approx(wanted("FITC", 1), abs=4)
    box = await page.locator("#map").bounding_box()
    assert box
    shot = np.asarray(Image.open(BytesIO(await page.screenshot())).convert("RGB"))
    middle = shot[int(box["y"] + box["height"] / 2), int(box["x"] + box["width"] / 2)]
    parts = [(await canvas(page, f"#map .channel-{n} canvas")) for n in (0, 1)]
    total = sum(part[part.shape[0] // 2, part.shape[1] // 2, :3].astype(int) for part in parts)
    assert np.abs(middle - np.clip(total, 0, 255)).max() <= 6
    await page.focus("#map")
    await page.keyboard.press(".")
    assert await spot(0) == pytest.approx(wanted("DAPI", 2), abs=4)
    assert await page.get_by_label("Focal plane").input_value() == "2"
    await page.wait_for_function("() => location.hash.includes('focal=2')")
    await page.get_by_label("Brightest shade of path DAPI").fill("0.8")
    await page.wait_for_timeout(400)
    assert await spot(0) == pytest.approx(wanted("DAPI", 2, high=65535 * 0.8**3), abs=4)

    async def late(route: Route) -> None:
        await asyncio.sleep(2)
        await route.continue_()

    # Until tiles of another window are there, those of this one stay.
    await page.route("**/tiles/**", late)
    await page.get_by_label("Brightest shade of path DAPI").fill("0.9")
    await page.wait_for_timeout(1000)
    shown = await canvas(page, "#map .channel-0 canvas")
    rows, columns = shown.shape[0] // 2, shown.shape[1] // 2
    assert shown[rows, columns, 3] == 255
    assert shown[rows - 20 : rows + 20, columns - 20 : columns + 20, 2].mean() == pytest.approx(
        wanted("DAPI", 2, high=65535 * 0.8**3), abs=4
    )
    assert await spot(0) == pytest.approx(wanted("DAPI", 2, high=65535 * 0.9**3), abs=4)
    await page.unroute("**/tiles/**")
    await page.get_by_role("checkbox", name="path FITC").uncheck()
    await page.wait_for_function("() => location.hash.includes('path=DAPI')")
    assert not await page.evaluate("viewer.channels.channels[1].layer.getVisible()")
    watched.clean()


async def test_small_screen_and_touch(watched: Watched, server: RunningServer, slide: Slide) -> None:
    page = watched.page
    await page.set_viewport_size({"width": 360, "height": 740})
    await opened(page, server.url, slide.series)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not await page.is_visible("#panel")
    await page.click("#panel-toggle")
    assert await page.is_visible("#panel")
    client = await page.context.new_cdp_session(page)
    before = await page.evaluate("viewer.map.getView().getResolution()")

    def points(gap: int) -> list[dict[str, int]]:
        return [{"x": 180 - gap, "y": 250, "id": 0}, {"x": 180 + gap, "y": 250, "id": 1}]

    await client.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": points(30)})
    for gap in (40, 60, 90):
        await client.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": points(gap)})
    await client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    await page.wait_for_timeout(300)
    assert await page.evaluate("viewer.map.getView().getResolution()") < before / 2
    watched.clean()


async def test_sparse_slide_of_ten_thousand_frames(watched: Watched, server: RunningServer) -> None:
    """The first tiles come at once, whatever the number of frames: all that leads to them is asked for in one go."""
    watched.page.set_default_timeout(60_000)
    tile, across, down = 128, 105, 105
    kinds = [np.full((tile, tile, 3), (200, 40 + 20 * n, 90), np.uint8) for n in range(8)]
    packed = [jpeg(kind) for kind in kinds]
    places = [Place(x * tile, y * tile) for y in range(down) for x in range(across) if (7 * x + 3 * y) % 11]
    encoded = [packed[(place.left + place.top) // tile % 8] for place in places]
    said = {"PhotometricInterpretation": "YBR_FULL_422"}
    ds = instance(
        Series(),
        [kinds[0]] * len(places),
        (across * tile, down * tile),
        syntax=JPEG,
        places=places,
        encoded=encoded,
        **said,
    )
    size = across * tile // 8, down * tile // 8
    coarse = instance(Series(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID),
                      tiles_of(np.full((size[1], size[0], 3), 90, np.uint8), tile), size)  # fmt: skip
    assert len(places) > 10_000
    with httpx.Client(base_url=server.url, timeout=60) as web:
        assert store(web, file(ds), file(coarse)).status_code in {200, 202}
    await opened(watched.page, server.url, ds.SeriesInstanceUID, f"#x={27.5 * tile}&y={30.5 * tile}&downsample=1")
    entries = await watched.page.evaluate(
        "performance.getEntriesByType('resource').map((e) => [e.name, e.startTime, e.responseEnd])"
    )
    at = {name.partition("?")[0].rpartition("/")[2]: (start, end) for name, start, end in entries}
    first = min(end for name, _, end in entries if "/tiles/" in name)
    assert at[ds.SeriesInstanceUID][0] < at["ol.js"][1]
    assert all(at[f"{name}.js"][0] < at["main.js"][1] for name in ("view", "slide", "address", "units"))
    assert first < 10_000, entries  # ms; under one where nothing else runs
    shown = await canvas(watched.page)
    middle = shown[shown.shape[0] // 2, shown.shape[1] // 2, :3].astype(int)
    assert np.abs(middle - kinds[57 % 8][0, 0]).max() < 10
    hole = shown[shown.shape[0] // 2, shown.shape[1] // 2 + tile, :3]  # nothing was scanned there
    assert (hole > 245).all()
    watched.clean()


async def test_series_that_is_no_slide(watched: Watched, server: RunningServer) -> None:
    series = new_uid()
    with httpx.Client(base_url=server.url) as web:
        assert store(web, ct(SeriesInstanceUID=series)).status_code == 200
    for query, words in (
        (f"?series={series}", "no such series, or it has no tiled image"),
        ("?series=1.2.3.4.5", "no such series"),
        ("", "names no series"),
    ):
        await watched.page.goto(f"{server.url}/wsi/viewer/{query}")
        await watched.page.wait_for_selector("#status.problem")
        assert words in await watched.page.inner_text("#status")


async def test_slide_is_linked_from_the_studies(watched: Watched, server: RunningServer, slide: Slide) -> None:
    page = watched.page
    await page.goto(server.url)
    await page.fill("[name=PatientID]", "SLIDE-1")
    await page.press("[name=PatientID]", "Enter")
    await page.wait_for_function("() => !document.querySelector('#results').hasAttribute('aria-busy')")
    await page.click(f"tr[data-study='{slide.study}'] button")
    await page.click("text=Open slide")
    await page.wait_for_selector("body[data-ready]")
    assert json.loads(json.dumps(await page.evaluate("viewer.slide.width"))) == WIDTH
    watched.clean()


async def test_measurements_are_saved_and_seen_again(watched: Watched, server: RunningServer, slide: Slide) -> None:
    page = watched.page
    await opened(page, server.url, slide.series, "#x=700&y=500&downsample=1")
    await page.wait_for_selector("body[data-annotated]")
    box = await page.locator("#map").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    await page.focus("#map")
    await page.keyboard.press("l")
    assert await page.get_attribute("#measure-length", "aria-pressed") == "true"
    await page.mouse.click(x - 100, y)
    await page.mouse.dblclick(x + 100, y, delay=20)
    listed = page.locator("#measurements li")
    await listed.first.wait_for()
    assert (await listed.first.inner_text()).startswith("Length 1: 100 µm")
    await page.click("#measure-area")
    for dx, dy in ((-50, 50), (50, 50), (50, 100)):
        await page.mouse.click(x + dx, y + dy)
        await page.wait_for_timeout(300)  # or it would be a double click
    await page.mouse.dblclick(x - 50, y + 100, delay=20)
    await page.keyboard.press("Escape")
    await page.wait_for_function("() => document.querySelectorAll('#measurements li').length === 2")
    assert (await listed.nth(1).inner_text()).startswith("Area 1: 1,250 µm²")
    # They outlive a reload, though not yet stored.
    await page.reload()
    await page.wait_for_selector("body[data-annotated]")
    assert await listed.count() == 2
    assert await page.locator("#measurements .remove").count() == 2
    await page.click("#measure-save")
    await page.wait_for_function("() => document.getElementById('status').textContent === '2 measurements are saved.'")
    assert await page.locator("#measurements .remove").count() == 0
    assert await page.is_disabled("#measure-save")
    # Somebody else sees them.
    await page.evaluate("sessionStorage.clear()")
    await page.goto("about:blank")
    await opened(page, server.url, slide.series, "#x=700&y=500&downsample=1")
    await page.wait_for_selector("body[data-annotated]")
    assert sorted([text.split(":")[0] for text in await listed.all_inner_texts()]) == ["Area 1", "Length 1"]
    await drawn(page)
    shot = np.asarray(Image.open(BytesIO(await page.screenshot())).convert("RGB")).astype(int)
    assert np.abs(shot[int(y), int(x) - 80] - (0x37, 0xC2, 0xF0)).max() < 40
    async with httpx.AsyncClient(base_url=server.url) as web:
        found = await web.get(f"/dicom-web/studies/{slide.study}/series", params={"Modality": "SR"})
    assert len(found.json()) == 1
    watched.clean()


async def test_a_hundred_thousand_annotations_stay_fluid(watched: Watched, server: RunningServer) -> None:
    page = watched.page
    made = make_slide(3000, 2200, levels=4)
    shapes = circles(100_000, 3000, 2200, radius=2.5)
    field = np.float32([[1000, 800], [1400, 800], [1400, 1100], [1000, 1100]])
    image = dcmread(BytesIO(made.files[0]))
    with httpx.Client(base_url=server.url, timeout=60) as web:
        files = bulk(image, "POLYGON", shapes), bulk(image, "POLYGON", [field], label="Field")
        assert store(web, *made.files, *files).status_code == 200
    bodies: list[int] = []
    page.on(
        "response",
        lambda answer: bodies.append(int(answer.headers["content-length"])) if "bbox=" in answer.url else None,
    )
    await opened(page, server.url, made.series)
    await page.wait_for_selector("body[data-annotated]")
    await drawn(page)
    assert "Nuclei (100,000)" in await page.inner_text("#panel")
    # Of the whole slide no shape is drawn: the answers stay small.
    assert sum(bodies) < 400_000
    # Zoom into the field, whose outline is where it was put.
    bodies.clear()
    await page.evaluate("location.hash = '#x=1000&y=800&downsample=0.5'")
    await drawn(page)
    assert 0 < sum(bodies) < 4_000_000
    await page.get_by_role("checkbox", name="Nuclei").uncheck()
    await drawn(page)
    box = await page.locator("#map").bounding_box()
    assert box
    shot = np.asarray(Image.open(BytesIO(await page.screenshot())).convert("RGB")).astype(int)
    x, y = int(box["x"] + box["width"] / 2), int(box["y"] + box["height"] / 2)
    inside, edge, outside = (shot[y + 40, x + dx] for dx in (60, 0, -60))
    assert edge[0] - outside[0] > 60  # red, over the dark slide
    assert 5 < inside[0] - outside[0] < 60
    assert await page.evaluate("document.querySelectorAll('#panel .problem').length") == 0
    watched.clean()


async def test_drawn_shapes_are_saved_as_bulk_annotations(watched: Watched, server: RunningServer) -> None:
    page = watched.page
    made = make_slide(1500, 1100)
    with httpx.Client(base_url=server.url, timeout=60) as web:
        assert store(web, *made.files).status_code == 200
    await opened(page, server.url, made.series, "#x=700&y=500&downsample=1")
    await page.wait_for_selector("body[data-annotated]")
    box = await page.locator("#map").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    assert not await page.is_visible("#measure-save")
    await page.click("#measure-area")
    for dx, dy in ((-150, -100), (150, -100), (150, 100)):
        await page.mouse.click(x + dx, y + dy)
        await page.wait_for_timeout(300)  # or it would be a double click
    await page.mouse.dblclick(x - 150, y + 100, delay=20)
    await page.keyboard.press("Escape")
    await page.select_option("#measure-form", "ANN")
    await page.fill("#measure-label", "Tumour")
    await page.click("#measure-save")
    await page.get_by_role("checkbox", name="Tumour (1)").wait_for()
    assert await page.locator("#measurements li").count() == 0

    async def edge() -> float:
        await drawn(page)
        shot = np.asarray(Image.open(BytesIO(await page.screenshot())).convert("RGB")).astype(int)
        lines = [shot[int(y) - 40 : int(y) + 40, int(x) - 150 + dx].mean(axis=0) for dx in (0, -30)]
        return float(np.abs(lines[0] - lines[1]).max())

    assert await edge() > 60
    await page.reload()
    await page.wait_for_selector("body[data-annotated]")
    assert await edge() > 60
    await page.get_by_role("checkbox", name="Tumour (1)").uncheck()
    assert await edge() < 30
    async with httpx.AsyncClient(base_url=server.url) as web:
        found = await web.get(f"/dicom-web/studies/{made.study}/series")
    assert {each["00080060"]["Value"][0] for each in found.json()} == {"SM", "ANN"}
    watched.clean()


async def test_segmentation_is_drawn_over_the_slide(watched: Watched, server: RunningServer) -> None:
    page = watched.page
    made = make_slide(1500, 1100)
    masks = np.zeros((1100, 1500, 2), np.uint8)
    masks[300:500, 500:700, 0] = masks[300:500, 900:1000, 1] = 1
    image = dcmread(BytesIO(made.files[0]))
    with httpx.Client(base_url=server.url, timeout=60) as web:
        assert store(web, *made.files, segmentation(image, masks, "BINARY", count=2)).status_code == 200
    async with httpx.AsyncClient(base_url=server.url) as asking:
        [found] = (await asking.get(f"/wsi/slides/{made.series}/segmentations")).json()["segmentations"]
    colours = [np.array([*bytes.fromhex(each["colour"][1:])], int) for each in found["segments"]]
    await opened(page, server.url, made.series, "#x=750&y=400&downsample=1")
    await page.wait_for_selector("body[data-annotated]")
    box = await page.locator("#map").bounding_box()
    assert box
    x, y = int(box["x"] + box["width"] / 2), int(box["y"] + box["height"] / 2)

    async def spot(place: tuple[int, int]) -> Matrix:
        """The mean colour around a place of the slide."""
        await drawn(page)
        shot = np.asarray(Image.open(BytesIO(await page.screenshot())).convert("RGB")).astype(int)
        left, top = x + place[0] - 750, y + place[1] - 400
        return shot[top - 5 : top + 5, left - 5 : left + 5].mean(axis=(0, 1))  # type: ignore[no-any-return]

    def plain(place: tuple[int, int]) -> Matrix:
        return np.array([255 * place[0] / 1500, 255 * place[1] / 1100, 40])

    inside, other, outside = (600, 400), (950, 400), (800, 400)
    np.testing.assert_allclose(await spot(outside), plain(outside), atol=6)
    np.testing.assert_allclose(await spot(inside), (plain(inside) + colours[0]) / 2, atol=6)
    np.testing.assert_allclose(await spot(other), (plain(other) + colours[1]) / 2, atol=6)
    await page.get_by_label("Opacity of Tumour").fill("1")
    np.testing.assert_allclose(await spot(inside), colours[0], atol=4)
    await page.get_by_role("checkbox", name="Segment 1").uncheck()
    np.testing.assert_allclose(await spot(inside), plain(inside), atol=6)
    np.testing.assert_allclose(await spot(other), colours[1], atol=4)
    await page.focus("#map")
    await page.keyboard.press("s")
    np.testing.assert_allclose(await spot(other), plain(other), atol=6)
    assert not await page.get_by_role("checkbox", name="Tumour").is_checked()
    await page.keyboard.press("s")
    # The whole slide, of which coarser levels are shown: the overlay lies in the same place.
    await page.keyboard.press("0")
    await page.wait_for_timeout(400)
    await drawn(page)
    part = await canvas(page, "#map .segmentation canvas")
    assert part[..., 3].max() == 255
    watched.clean()


async def test_profile_is_applied_where_it_is_wanted(watched: Watched, server: RunningServer) -> None:
    page = watched.page
    made = make_slide(600, 400)
    files = []
    for data in made.files:
        ds = dcmread(BytesIO(data))
        ds.OpticalPathSequence[0].ICCProfile = standard_profile("rommrgb")
        files.append(file(ds))
    with httpx.Client(base_url=server.url, timeout=60) as web:
        assert store(web, *files).status_code == 200
    await opened(page, server.url, made.series, "#x=300&y=200&downsample=1")
    await page.wait_for_selector("body[data-annotated]")

    async def middle() -> Matrix:
        await drawn(page)
        shown = await canvas(page)
        rows, columns = shown.shape[0] // 2, shown.shape[1] // 2
        return shown[rows - 20 : rows + 20, columns - 20 : columns + 20, :3].astype(int).mean(axis=(0, 1))  # type: ignore[no-any-return]

    assert not await page.is_checked("#icc")
    before = await middle()
    await page.check("#icc")
    after = await middle()
    wanted = region(server, made.series, (280, 180, 40, 40), (40, 40), iccprofile="srgb").astype(int).mean(axis=(0, 1))
    np.testing.assert_allclose(after, wanted, atol=3)
    assert np.abs(after - before).max() > 15
    await page.wait_for_function("() => location.hash.includes('icc=srgb')")
    await page.reload()
    await page.wait_for_selector("body[data-ready]")
    np.testing.assert_allclose(await middle(), wanted, atol=3)
    watched.clean()
