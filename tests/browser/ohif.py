"""OHIF in the browser: opening a study, and reading what its viewports show."""

import asyncio
import base64
import re

import httpx
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tests.browser.conftest import Watched
from tests.http.bodies import store
from tests.support import RunningServer

READY = "canvas.cornerstone-canvas"
_PIXELS = """(index) => {
    const canvas = document.querySelectorAll('canvas.cornerstone-canvas')[index];
    const bytes = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    let text = '';
    for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
    return [canvas.height, canvas.width, btoa(text)];
}"""
_RECORD = """async () => {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [320, 240];
    const context = canvas.getContext('2d');
    const recorder = new MediaRecorder(canvas.captureStream(25), { mimeType: 'video/mp4;codecs=avc1.42E01E' });
    const parts = [];
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.start();
    for (let frame = 0; frame < 50; frame += 1) {
        context.fillStyle = '#f00000';
        context.fillRect(0, 0, 320, 240);
        context.fillStyle = '#fff';
        context.fillRect(frame * 5, 100, 40, 40);
        await new Promise((done) => setTimeout(done, 40));
    }
    await new Promise((done) => { recorder.onstop = done; recorder.stop(); });
    const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
    let text = '';
    for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
    return btoa(text);
}"""


async def recorded(watched: Watched) -> bytes:
    """An MPEG-4 AVC file of two seconds, recorded by the browser on the page it shows: a white square on red."""
    return base64.b64decode(await watched.page.evaluate(_RECORD))


def put(server: RunningServer, *files: bytes) -> None:
    """Store the files, fifty a request."""
    with httpx.Client(base_url=server.url, timeout=120) as web:
        for start in range(0, len(files), 50):
            answer = store(web, *files[start : start + 50])
            assert answer.status_code == 200, answer.text


async def prepare(watched: Watched) -> None:
    """As for somebody who has used OHIF before: no tour over the picture."""
    tours = '["basicViewerTour", "basicViewer"]'
    await watched.page.add_init_script(f"localStorage.setItem('shownTours', '{tours}')")
    watched.page.set_default_timeout(60_000)


async def opened(watched: Watched, server: RunningServer, study: str) -> None:
    """Open the study and wait until its first image is drawn."""
    await prepare(watched)
    await watched.page.goto(f"{server.url}/ohif/viewer?StudyInstanceUIDs={study}")
    await drawn(watched)


async def drawn(watched: Watched, index: int = 0) -> NDArray[np.uint8]:
    """The pixels of a viewport (rows, columns, RGB) once it shows an image and no longer changes."""
    await watched.page.wait_for_selector(READY)
    before = np.zeros(0, np.uint8)
    for _ in range(120):
        await asyncio.sleep(0.5)
        now = await pixels(watched, index)
        if now.shape == before.shape and now.size and np.ptp(now) > 0 and np.array_equal(now, before):
            return now
        before = now
    raise AssertionError("the viewport shows nothing, or does not come to rest")


async def pixels(watched: Watched, index: int = 0) -> NDArray[np.uint8]:
    """What a viewport shows now: rows, columns, RGB."""
    rows, columns, text = await watched.page.evaluate(_PIXELS, index)
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(rows, columns, 4)[..., :3]


async def slice_number(watched: Watched) -> int:
    """The instance number that the viewport's corner shows."""
    text = await watched.page.locator("[data-cy=viewport-overlay-bottom-right]").first.inner_text()
    found = re.search(r"I:\s*(\d+)", text)
    assert found, text
    return int(found[1])


def likeness(shown: NDArray[np.uint8], image: NDArray[np.generic], aspect: float = 1.0) -> float:
    """Pearson's correlation between an image and what a viewport shows of it, fitted into its middle.

    `aspect` is the height of a pixel divided by its width. Colour is compared as the mean of its channels.
    """
    values = image.astype(float)
    values = values.mean(axis=2) if values.ndim == 3 else values
    canvas = shown.astype(float).mean(axis=2)
    rows, columns = values.shape
    scale = min(canvas.shape[0] / (rows * aspect), canvas.shape[1] / columns)
    y = (canvas.shape[0] / 2 + (np.arange(rows) + 0.5 - rows / 2) * aspect * scale).astype(int)
    x = (canvas.shape[1] / 2 + (np.arange(columns) + 0.5 - columns / 2) * scale).astype(int)
    inside = canvas[np.clip(y, 0, canvas.shape[0] - 1)][:, np.clip(x, 0, canvas.shape[1] - 1)]
    return float(np.corrcoef(inside.ravel(), values.ravel())[0, 1])


def windowed(ds: Dataset, frame: NDArray[np.generic]) -> NDArray[np.float64]:
    """A frame by the dataset's own window, from 0 to 1 (PS3.3 C.11.2.1.2)."""
    values = frame.astype(float) * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
    center, width = (np.atleast_1d(ds[name].value)[0] for name in ("WindowCenter", "WindowWidth"))
    return np.clip((values - float(center) + 0.5) / (float(width) - 1) + 0.5, 0, 1)
