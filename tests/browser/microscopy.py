"""OHIF's microscopy mode: where a slide whose colours tell the place lies on its canvas, without a hole."""

import asyncio
import base64
from dataclasses import dataclass

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from tests.browser.conftest import Watched
from tests.wsi.make_slide import Slide, colour

# What WebGL has drawn can be read from its canvas only where it is told to keep it.
READABLE = """
const original = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, options) {
    return original.call(this, kind, kind.includes('webgl') ? { ...options, preserveDrawingBuffer: true } : options);
};
"""
_CANVAS = "[data-cy=viewport-pane] canvas.ol-layer"

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Place:
    """Where the edges of the slide are on a canvas of this size, seen or not; `scale`: its pixels for one of the slide.

    `level`: the one whose tiles are drawn. `near`: by how much an edge may seem to be elsewhere, told by 256 shades.
    """

    left: float
    top: float
    right: float
    bottom: float
    scale: float
    level: int
    size: tuple[int, int]
    near: float

    @property
    def first(self) -> tuple[float, float]:
        """The corner of the first pixel."""
        return self.left, self.top

    @property
    def last(self) -> tuple[float, float]:
        """The corner of the last one."""
        return self.right, self.bottom

    @property
    def sees_first(self) -> bool:
        """Whether the edges at the left and at the top are seen."""
        return min(self.first) > -self.near

    @property
    def sees_last(self) -> bool:
        """Whether those at the right and at the bottom are."""
        return self.right < self.size[0] + self.near and self.bottom < self.size[1] + self.near

    @property
    def whole(self) -> bool:
        """Whether the whole slide is seen."""
        return self.sees_first and self.sees_last


async def drawn(watched: Watched) -> Pixels:
    """The canvas (rows, columns, RGBA) once it shows something and no longer changes."""
    canvas = watched.page.locator(_CANVAS).first
    await canvas.wait_for()
    before = np.zeros(0, np.uint8)
    same = 0
    for _ in range(60):
        await asyncio.sleep(0.5)
        url = await canvas.evaluate("(canvas) => canvas.toDataURL('image/png')")
        now = np.asarray(imagecodecs.png_decode(base64.b64decode(url.partition(",")[2])))
        same = same + 1 if now.shape == before.shape and now.any() and np.array_equal(now, before) else 0
        if same == 2:
            return now
        before = now
    raise AssertionError("the slide is not drawn, or does not come to rest")


def place_of(canvas: Pixels, slide: Slide) -> Place:
    """Where the slide lies by its colours; asserts that it is whole on the canvas, each pixel in the right colour."""
    down, across = np.nonzero(canvas[..., 3])
    box = canvas[down.min() : down.max() + 1, across.min() : across.max() + 1].astype(float)
    assert (box[..., 3] == 255).all(), "there is a hole in the slide"
    rows, columns = box.shape[:2]
    # The medians pass over the dark lines between tiles.
    reds, greens = np.median(box[..., 0], axis=0), np.median(box[..., 1], axis=1)
    red, green = _line(reds, int(across.min())), _line(greens, int(down.min()))
    size = canvas.shape[1], canvas.shape[0]
    edges = [(shade - line[1]) / line[0] for shade in (0, 255) for line in (red, green)]
    near = 3 + 0.5 / min(red[0], green[0])
    seen = [across.min(), down.min(), across.max() + 1, down.max() + 1]
    for edge, drawn_to, least, most in zip(edges, seen, (0, 0, 0, 0), (*size, *size), strict=True):
        assert abs(min(max(edge, least), most) - drawn_to) <= near, (edges, seen)
    scale = (edges[2] - edges[0]) / slide.sizes[0][0]
    assert abs((edges[3] - edges[1]) / slide.sizes[0][1] / scale - 1) < 0.02
    blue = float(np.median(box[..., 2]))
    level = min(range(len(slide.sizes)), key=lambda each: abs(colour(0, 0, each)[2] - blue))
    expected = np.empty((rows, columns, 3))
    expected[..., 0] = np.polyval(red, np.arange(columns) + across.min() + 0.5)
    expected[..., 1] = np.polyval(green, np.arange(rows) + down.min() + 0.5)[:, None]
    expected[..., 2] = colour(0, 0, level)[2]
    wrong = np.abs(box[..., :3] - expected).max(axis=2)
    assert np.median(wrong) <= 2
    assert np.percentile(wrong, 97) <= 8, np.percentile(wrong, [50, 90, 97, 99])
    return Place(*edges, scale, level, size, near)


def _line(shades: NDArray[np.floating], start: int) -> NDArray[np.floating]:
    """Slope and offset of shades that grow evenly along an edge, the first of them at the pixel `start`."""
    shades = shades + 0.5  # `make_slide` cuts what is behind the point
    places = np.arange(len(shades)) + start + 0.5
    even = np.polyfit(places, shades, 1)
    kept = np.abs(np.polyval(even, places) - shades) < 20
    return np.polyfit(places[kept], shades[kept], 1)


async def closer(watched: Watched, place: tuple[float, float]) -> None:
    """Zoom in by two at a place of the canvas, or the nearest one that is on it."""
    box = await watched.page.locator(_CANVAS).first.bounding_box()
    assert box
    x, y = (min(max(at, 1), side - 2) for at, side in zip(place, (box["width"], box["height"]), strict=True))
    await watched.page.mouse.move(box["x"] + x, box["y"] + y)
    await watched.page.mouse.wheel(0, -400)
    await watched.page.wait_for_timeout(1000)
