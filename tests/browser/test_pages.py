"""The pages for people in a real browser."""

import re

import httpx
import pytest
from playwright.async_api import Route

from tests.browser.conftest import Watched
from tests.files import compressed, ct, dataset, encoded, new_uid
from tests.http.bodies import store
from tests.http.test_rendered import NO_PIXELS
from tests.support import ROOT, RunningServer

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="session")
def patient(server: RunningServer) -> str:
    """A patient with 30 studies; its ID."""
    patient = f"B-{new_uid()[-10:]}"
    with httpx.Client(base_url=server.url, timeout=60) as web:
        files = [
            ct(PatientID=patient, PatientName="Page^Paula", StudyDate=f"202401{day:02d}", StudyDescription=f"Day {day}")
            for day in range(1, 31)
        ]
        assert store(web, *files).status_code == 200
    return patient


async def _rows(watched: Watched) -> list[str]:
    await watched.page.wait_for_function("() => !document.querySelector('#results').hasAttribute('aria-busy')")
    return await watched.page.locator("#results tbody tr:not(.series)").all_inner_texts()


async def _search(watched: Watched, **fields: str) -> list[str]:
    for name, value in fields.items():
        await watched.page.fill(f"[name={name}]", value)
    await watched.page.press("[name=PatientID]", "Enter")
    return await _rows(watched)


async def test_studies_are_listed_and_paged(watched: Watched, server: RunningServer, patient: str) -> None:
    await watched.page.goto(server.url)
    first = await _search(watched, PatientID=patient)
    assert len(first) == 25
    assert re.search(r"Page, Paula\s+" + patient + r"\s+2024-01-30\s+CT\s+Day 30\s+1\s+1", first[0])
    assert await watched.page.inner_text("#status") == "Studies 1 to 25"
    assert await watched.page.is_disabled("#previous")
    await watched.page.click("#next")
    await watched.page.wait_for_function("() => document.querySelector('#status').textContent === 'Studies 26 to 30'")
    assert len(await _rows(watched)) == 5
    assert await watched.page.is_disabled("#next")
    # The address is the state: a reload shows the same page.
    await watched.page.reload()
    await watched.page.wait_for_function("() => document.querySelector('#status').textContent === 'Studies 26 to 30'")
    watched.clean()


async def test_search_by_name_date_and_modality(watched: Watched, server: RunningServer, patient: str) -> None:
    await watched.page.goto(server.url)
    assert (
        len(await _search(watched, PatientID=patient, PatientName="paul", **{"from": "2024-01-05", "to": "2024-01-07"}))
        == 3
    )
    await watched.page.select_option("[name=ModalitiesInStudy]", "MR")
    assert await _search(watched) == []
    assert await watched.page.inner_text("#status") == "No studies found."
    await watched.page.select_option("[name=ModalitiesInStudy]", "CT")
    assert len(await _search(watched, StudyDescription="Day 6")) == 1
    watched.clean()


async def test_keyboard_alone(watched: Watched, server: RunningServer, patient: str) -> None:
    page = watched.page
    await page.goto(server.url)
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.className") == "skip"
    await page.focus("[name=PatientID]")
    await page.keyboard.type(patient)
    await page.keyboard.press("Enter")
    await _rows(watched)
    await page.wait_for_function("() => document.querySelectorAll('#results tbody tr').length === 25")
    for _ in range(20):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.closest('#results tbody') !== null"):
            break
    assert await page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "false"
    await page.keyboard.press("Enter")
    await page.wait_for_selector("tr.series li")
    assert "CT" in await page.inner_text("tr.series")
    assert await page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    await page.keyboard.press("Enter")
    assert await page.locator("tr.series").count() == 0
    watched.clean()


async def test_names_never_become_markup(watched: Watched, server: RunningServer) -> None:
    evil = f"X-{new_uid()[-10:]}"
    # In a name "=" would separate its representations.
    name = "<script>alert(1)</script><b>bold</b>"
    file = ct(PatientID=evil, PatientName=name, StudyDescription="<script>alert(2)</script>", SeriesDescription=EVIL)
    with httpx.Client(base_url=server.url) as web:
        assert store(web, file).status_code == 200
    await watched.page.goto(server.url)
    [row] = await _search(watched, PatientID=evil)
    assert name in row
    assert "<script>alert(2)</script>" in row
    await watched.page.click("#results tbody button")
    await watched.page.wait_for_selector("tr.series li")
    assert EVIL in await watched.page.inner_text("tr.series")
    assert await watched.page.locator("#results img:not(.thumbnail > img), #results script, #results b").count() == 0
    watched.clean()


async def test_picture_of_a_study(watched: Watched, server: RunningServer, patient: str) -> None:
    picture = (ROOT / "api/pages/icon.svg").read_bytes()
    asked: list[str] = []

    async def answer(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) % 2:
            await route.fulfill(body=picture, content_type="image/svg+xml")
        else:
            await route.fulfill(status=204)

    await watched.page.route("**/thumbnail?missing=empty", answer)
    await watched.page.goto(server.url)
    await _search(watched, PatientID=patient, **{"from": "2024-01-05", "to": "2024-01-08"})
    await watched.page.wait_for_function(
        "() => [...document.querySelectorAll('.thumbnail img')].every((image) => image.complete)"
    )
    assert len(asked) >= 4
    assert re.fullmatch(re.escape(server.dicomweb) + r"/studies/[0-9.]+/thumbnail\?missing=empty", asked[0])
    # Where there is no picture, a plain square of the same size remains.
    squares = watched.page.locator("#results .thumbnail")
    assert await squares.count() == 4
    assert 0 < await watched.page.locator("#results .thumbnail img").count() < 4
    boxes = [await squares.nth(index).bounding_box() for index in range(4)]
    assert {(box["width"], box["height"]) for box in boxes if box} == {(48, 48)}
    watched.clean()


async def test_studies_without_any_picture(watched: Watched, server: RunningServer) -> None:
    """A CT without pixel data, one that cannot be decoded and a video: plain squares, and nothing on the console."""
    patient = f"N-{new_uid()[-10:]}"
    files = (
        encoded(dataset(PatientID=patient, **NO_PIXELS)),
        compressed([b"\xff\xd8\xff\xc3" + bytes(300)], "1.2.840.10008.1.2.4.70", PatientID=patient),
        compressed([bytes(600)], "1.2.840.10008.1.2.4.102", PatientID=patient, Modality="XC"),
    )
    with httpx.Client(base_url=server.url) as web:
        assert store(web, *files).status_code == 202
    await watched.page.goto(server.url)
    assert len(await _search(watched, PatientID=patient)) == 3
    await watched.page.click("#results tbody button >> nth=0")
    await watched.page.wait_for_selector("tr.series li")
    await watched.page.wait_for_function("() => document.querySelectorAll('.thumbnail img').length === 0")
    watched.clean()


async def test_list_without_the_viewer(watched: Watched, server: RunningServer, patient: str) -> None:
    await watched.page.route(
        "**/settings.json", lambda route: route.fulfill(json={"root": "/dicom-web", "ohif": False})
    )
    await watched.page.goto(server.url)
    assert await _search(watched, PatientID=patient)
    assert await watched.page.locator("#without a[href=ohif]").is_visible()
    assert await watched.page.locator("a.open").count() == 0
    watched.clean()


async def test_small_screen(watched: Watched, server: RunningServer, patient: str) -> None:
    await watched.page.set_viewport_size({"width": 360, "height": 740})
    await watched.page.goto(server.url)
    assert len(await _search(watched, PatientID=patient)) == 25
    assert await watched.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    watched.clean()


async def test_server_error_is_shown(watched: Watched, server: RunningServer) -> None:
    await watched.page.route("**/dicom-web/studies*", lambda route: route.fulfill(status=503, body="{}"))
    await watched.page.goto(server.url)
    await watched.page.wait_for_function("() => document.querySelector('#status').textContent !== 'Loading …'")
    assert await _rows(watched) == []


async def test_api_page(watched: Watched, server: RunningServer) -> None:
    await watched.page.goto(f"{server.url}/docs")
    await watched.page.wait_for_selector("details.operation")
    shown = await watched.page.locator("details.operation summary").all_inner_texts()
    assert any("/dicom-web/studies/{study}/metadata" in text for text in shown)
    await watched.page.click("details.operation summary >> nth=0")
    assert "Scope: dicom.search" in await watched.page.inner_text("details.operation[open]")
    watched.clean()
