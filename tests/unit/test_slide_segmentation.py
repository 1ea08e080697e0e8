"""Segmentations out of their metadata, where they lie, and their colours; metadata that lie."""

from typing import Any

import numpy as np
import orjson
import pytest

from dicomweb.slides.coordinates import SlideCoordinates
from dicomweb.slides.overlay import covered, label_colours, labelled, lay, scaled
from dicomweb.slides.segmentation import Segment, Segmentation, lie_of, read_segmentation
from dicomweb.slides.tilemap import Grid

FRAME = "1.2.3"
IMAGE = "1.2.3.4"
SLIDE = Grid(1000, 800, 256, 256)


def header(**changes: Any) -> dict[str, Any]:
    """TILED_FULL, 500 x 400 pixels of 1 µm in tiles of 100, two segments; tags replace or, with None, remove."""
    one = {"vr": "DS", "Value": [0.001, 0.001]}
    origin = {"0040072A": {"vr": "DS", "Value": [5]}, "0040073A": {"vr": "DS", "Value": [5]}}
    found: dict[str, Any] = {
        "00080018": {"vr": "UI", "Value": ["1.2.9"]},
        "00081115": {
            "vr": "SQ",
            "Value": [{"0008114A": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [IMAGE]}}]}}],
        },
        "00200052": {"vr": "UI", "Value": [FRAME]},
        "00209311": {"vr": "CS", "Value": ["TILED_FULL"]},
        "00280002": {"vr": "US", "Value": [1]},
        "00280004": {"vr": "CS", "Value": ["MONOCHROME2"]},
        "00280008": {"vr": "IS", "Value": [40]},
        "00280010": {"vr": "US", "Value": [100]},
        "00280011": {"vr": "US", "Value": [100]},
        "00280100": {"vr": "US", "Value": [1]},
        "00480006": {"vr": "UL", "Value": [500]},
        "00480007": {"vr": "UL", "Value": [400]},
        "00480008": {"vr": "SQ", "Value": [origin]},
        "00480102": {"vr": "DS", "Value": [0, 1, 0, 1, 0, 0]},
        "52009229": {"vr": "SQ", "Value": [{"00289110": {"vr": "SQ", "Value": [{"00280030": one}]}}]},
        "00620001": {"vr": "CS", "Value": ["BINARY"]},
        "00620002": {"vr": "SQ", "Value": [{"00620004": {"vr": "US", "Value": [n]}} for n in (1, 2)]},
        "7FE00010": {"vr": "OB", "BulkDataURI": "x"},
    }
    for tag, value in changes.items():
        found[tag[1:]] = value
    return {tag: value for tag, value in sorted(found.items()) if value is not None}


def read(frames: int = 40, **changes: Any) -> Segmentation | None:
    return read_segmentation(orjson.dumps(header(**changes)), frames)


def coordinates(cosines: tuple[float, ...] = (0, 1, 0, 1, 0, 0), frame: str = FRAME) -> SlideCoordinates:
    axes = np.array(cosines, float).reshape(2, 3) * 0.0005
    return SlideCoordinates(frame, np.array([5.0, 5.0, 0.0]), axes)


def test_frames_of_segments_follow_each_other() -> None:
    found = read()
    assert found is not None
    assert [each.number for each in found.segments] == [1, 2]
    assert [found.maps[number].at(3, 2).frame for number in (1, 2)] == [13, 33]  # type: ignore[union-attr]
    # Half of the second one's are missing.
    short = read(frames=30)
    assert short is not None
    assert short.maps[2].at(3, 2) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"t00620001": {"vr": "CS", "Value": ["OTHER"]}},
        {"t00620001": None},
        {"t00480006": None},
        {"t00480006": {"vr": "UL", "Value": [1 << 32]}},
        {"t00280100": {"vr": "US", "Value": [32]}},
        {"t00280002": {"vr": "US", "Value": [3]}},
        {"t00280008": {"vr": "IS", "Value": [0]}},
        {"t00209311": {"vr": "CS", "Value": ["TILED_SPARSE"]}},
    ],
    ids=range(8),
)
def test_what_lies_on_no_slide(changes: dict[str, Any]) -> None:
    assert read(**changes) is None


def test_segments_that_are_none_are_left_out() -> None:
    numbers: list[Any] = [0, 1, 70_000, -1, "2", None, "x"]
    items = [{"00620004": {"vr": "US", "Value": [number]}} for number in numbers]
    found = read(t00620002={"vr": "SQ", "Value": [*items, {}, 7, None]})
    assert found is not None
    assert [each.number for each in found.segments] == [1, 2]
    assert len({each.colour for each in found.segments}) == 2
    many = [{"00620004": {"vr": "US", "Value": [number]}} for number in range(1, 60_000)]
    found = read(t00620002={"vr": "SQ", "Value": many})
    assert found is not None
    assert len(found.segments) == 1024


def test_where_it_lies() -> None:
    found = read()
    assert found is not None
    none = frozenset[str]()
    # The same origin at half the resolution: the whole slide, though the middles of the first pixels differ.
    lie = lie_of(found, SLIDE, coordinates(), none)
    assert lie is not None
    assert (lie.left, lie.top, lie.across, lie.down) == (0, 0, 2, 2)
    larger = lie_of(found, Grid(3000, 2000, 256, 256), coordinates(), none)
    assert larger is not None
    assert (larger.left, larger.across) == (pytest.approx(-0.5), pytest.approx(2))
    # Rows of the one are columns of the other; and turned by half a turn.
    turned = lie_of(found, SLIDE, coordinates((1, 0, 0, 0, 1, 0)), none)
    assert turned is not None
    assert not turned.straight
    assert turned.bounds(500, 400) == pytest.approx((-0.5, -0.5, 799.5, 999.5))
    places = np.array([[0.5, 0.5], [10.5, 0.5], [0.5, 10.5]])
    np.testing.assert_allclose(turned.on_slide(places), [[0.5, 0.5], [0.5, 20.5], [20.5, 0.5]])
    np.testing.assert_allclose(turned.on_matrix(turned.on_slide(places)), places)
    assert turned.side == pytest.approx(2)
    half = lie_of(found, SLIDE, coordinates((0, -1, 0, -1, 0, 0)), none)
    assert half is not None
    assert half.bounds(500, 400) == pytest.approx((-998.5, -798.5, 1.5, 1.5))
    # Upright on the glass, and at a slant to it.
    assert lie_of(found, SLIDE, coordinates((0, 1, 0, 0, 0, 1)), none) is None
    assert lie_of(found, SLIDE, coordinates((0, 1, 0, 0.8, 0, 0.6)), none) is None
    assert lie_of(found, SLIDE, coordinates(frame="9.9"), frozenset((IMAGE,))) is None
    # Without coordinates it covers the image that it refers to.
    bare = read(t00480102=None, t00200052=None)
    assert bare is not None
    assert lie_of(bare, SLIDE, coordinates(), none) is None
    lie = lie_of(bare, SLIDE, coordinates(), frozenset((IMAGE,)))
    assert lie is not None
    assert (lie.left, lie.across, lie.down) == (0, 2, 2)
    assert lie_of(bare, Grid(1000, 1000, 256, 256), coordinates(), frozenset((IMAGE,))) is None


def test_colours_are_multiplied_by_alpha_and_come_back() -> None:
    colour = (200, 100, 50)
    values = np.array([[0, 50, 100, 250]] * 2, np.uint8)
    piece = covered(values, 100, colour, 1)
    np.testing.assert_array_equal(piece[0, :, 3], [0, 128, 255, 255])
    canvas = np.zeros((4, 6, 4), np.uint8)
    lay(canvas, piece, 3, -1)  # partly outside
    lay(canvas, covered(np.full((4, 6), 100, np.uint8), 100, (0, 0, 255), 1), 99, 99)
    shown = scaled(canvas, (0, 0, 6, 4), (6, 4), smooth=False)
    np.testing.assert_array_equal(shown[0, :, 3], [0, 0, 0, 0, 128, 255])
    np.testing.assert_allclose(shown[0, 5, :3], colour)
    np.testing.assert_allclose(shown[0, 4, :3], colour, atol=2)
    assert not shown[1:, :, 3].any()
    # One over another: half of blue over full red.
    lay(canvas, covered(np.full((1, 6), 50, np.uint8), 100, (0, 0, 255), 1), 0, 0)
    np.testing.assert_allclose(canvas[0, 5], (100, 50, 153, 255), atol=2)


def test_values_of_no_segment_have_no_colour() -> None:
    table = label_colours([Segment(3, "", "", (1, 2, 3)), Segment(65_535, "", "", (4, 5, 6))])
    values = np.array([[0, 3], [65_535, 7]], np.uint16)
    np.testing.assert_array_equal(
        labelled(values, table, 1), [[[0, 0, 0, 0], [1, 2, 3, 255]], [[4, 5, 6, 255], [0, 0, 0, 0]]]
    )
    assert labelled(values, table, 2).shape == (1, 1, 4)
