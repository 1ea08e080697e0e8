"""Rendered resources over TCP: what is sent for what is asked, caching, errors."""

from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from tests.files import dataset, encoded
from tests.http.bodies import ROOT, store


def kept(web: httpx.Client, file: bytes) -> str:
    """Store a file; the path of its instance."""
    assert store(web, file).status_code == 200, "stored"
    ds = dcmread(BytesIO(file), stop_before_pixels=True)
    return f"{ROOT}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


def pixels(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(BytesIO(answer.content)))


@pytest.fixture
def ct(web: httpx.Client) -> str:
    """Values 0 to 4095 in equal steps, window 2048 / 4096."""
    values = np.linspace(0, 4095, 64 * 64).astype("<u2")
    return kept(
        web, encoded(dataset(Rows=64, Columns=64, WindowCenter=2048, WindowWidth=4096, PixelData=values.tobytes()))
    )


def test_a_ct_as_png_and_jpeg(web: httpx.Client, ct: str) -> None:
    expected = np.rint(np.linspace(0, 4095, 64 * 64).astype("<u2") * (255 / 4095)).reshape(64, 64)
    png = web.get(f"{ct}/rendered", headers={"Accept": "image/png"})
    assert png.headers["content-type"] == "image/png"
    assert np.array_equal(pixels(png), expected)
    jpeg = web.get(f"{ct}/frames/1/rendered")
    assert jpeg.headers["content-type"] == "image/jpeg"
    assert np.abs(pixels(jpeg).astype(int) - expected).max() <= 8
    assert pixels(web.get(f"{ct}/rendered?viewport=32,16&accept=image/png")).shape == (16, 16)
