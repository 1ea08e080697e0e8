"""DeepZoom, IIIF and regions of our own: text in; a part of the slide and a size out, or a refusal."""

import random
from contextlib import suppress

import pytest

from dicomweb.errors import BadQuery, NotFound
from wsi.dialects import (
    MAX_PIXELS,
    MAX_SIDE,
    Asked,
    deepzoom_levels,
    iiif_information,
    parse_deepzoom,
    parse_iiif,
    parse_region,
)

WIDTH, HEIGHT = 6000, 4400


def box(asked: Asked) -> tuple[float, ...]:
    return asked.left, asked.top, asked.width, asked.height, asked.columns, asked.rows


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"width": "600"}, (0, 0, 6000, 4400, 600, 440)),
        ({"height": "440"}, (0, 0, 6000, 4400, 600, 440)),
        ({"region": "5900,4300,500,500"}, (5900, 4300, 100, 100, 100, 100)),
        ({"region": "10,20,30,40", "unit": "percent", "width": "90"}, (600, 880, 1800, 1760, 90, 88)),
        ({"region": "100,50,25,25", "unit": "um"}, (400, 100, 100, 50, 100, 50)),
        ({"region": "100,50,25,25", "unit": "um", "mpp": "0.5"}, (400, 100, 100, 50, 50, 50)),
    ],
)
def test_regions(given: dict[str, str], expected: tuple[float, ...]) -> None:
    assert box(parse_region(WIDTH, HEIGHT, given, (0.25, 0.5))) == expected


def test_a_slide_without_spacing_has_no_micrometres() -> None:
    for given in ({"region": "1,1,1,1", "unit": "um"}, {"mpp": "1"}):
        with pytest.raises(BadQuery):
            parse_region(WIDTH, HEIGHT, given, None)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 1), (256, 256), (257, 3), (6000, 4400), (2**31 - 1, 7)])
def test_deepzoom_levels_cover_the_image_once(width: int, height: int) -> None:
    finest = deepzoom_levels(width, height)
    assert 1 << finest >= max(width, height) > (1 << finest) // 2
    one = parse_deepzoom(width, height, 256, "0", "0_0.jpeg")
    assert box(one) == (0, 0, width, height, 1, 1)
    if max(width, height) > 10_000:
        return
    for level in range(finest + 1):
        covered = columns = 0
        for x in range(100):
            try:
                tile = parse_deepzoom(width, height, 256, str(level), f"{x}_0.png")
            except NotFound:
                break
            covered, columns = covered + tile.width, columns + tile.columns
        assert (covered, columns) == (width, -(-width // (1 << finest - level)))


def test_iiif_information_names_what_can_be_asked() -> None:
    info = iiif_information("https://x/y", WIDTH, HEIGHT, (256, 256), [(6000, 4400), (375, 275)])
    # The whole of the finest level is larger than a picture may be.
    assert info["sizes"] == [{"width": 375, "height": 275}]
    assert info["tiles"][0]["scaleFactors"] == [1, 2, 4, 8, 16]
    assert info["maxArea"] == MAX_PIXELS
    for factor in info["tiles"][0]["scaleFactors"]:
        side = 256 * factor
        asked = parse_iiif(WIDTH, HEIGHT, f"0,0,{min(side, WIDTH)},{min(side, HEIGHT)}", "256,", "0", "default.jpg")
        assert asked.columns == 256


def test_the_largest_picture_is_what_the_information_says() -> None:
    asked = parse_iiif(WIDTH, HEIGHT, "full", "max", "0", "default.jpg")
    assert asked.columns * asked.rows <= MAX_PIXELS
    assert asked.columns / asked.rows == pytest.approx(WIDTH / HEIGHT, rel=0.01)
    grown = parse_iiif(100, 100, "full", "^max", "0", "default.jpg")
    assert grown.columns == grown.rows == int(MAX_PIXELS**0.5) <= MAX_SIDE


def test_nonsense_is_refused() -> None:
    rng = random.Random(7)
    pieces = [*"^!,.-09é٣", "full", "max", "pct:", "1e9", "256", "99999999999", "default", ".jpg"]
    for _ in range(3000):
        texts = ["".join(rng.choices(pieces, k=rng.randint(0, 6))) for _ in range(4)]
        with suppress(BadQuery):
            asked = parse_iiif(WIDTH, HEIGHT, *texts)
            assert asked.columns * asked.rows <= MAX_PIXELS
        with suppress(BadQuery):
            given = {"region": texts[0], "width": texts[1], "mpp": texts[2]}
            parse_region(WIDTH, HEIGHT, given, (1.0, 1.0))
        with pytest.raises(NotFound):
            parse_deepzoom(WIDTH, HEIGHT, 256, texts[0] + "x", texts[1])
