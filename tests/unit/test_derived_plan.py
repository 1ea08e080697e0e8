"""Which coarse levels a slide lacks, and where their tiles are."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from dicomweb.pixels.image import ImagePixel
from dicomweb.slides.derived import JPEG_LS, derived_image, derived_syntax, plan, tiles_of, with_derived
from dicomweb.slides.pyramid import Slide
from dicomweb.slides.tilemap import FrameRef
from tests.unit.test_slides import full, slide
from tests.wsi.variants import JPEG, Place, Series, instance


def big(width: int, height: int, **attributes: Any) -> Dataset:
    """A sparse instance of one frame on a large matrix."""
    return instance(Series(), [np.zeros((8, 8), np.uint8)], (width, height), places=[Place(0, 0)], **attributes)


def sizes(found: Slide) -> list[tuple[int, int, int]]:
    return [(level.source, level.width, level.height) for level in plan(found)]


def test_a_quarter_each_until_it_is_small_enough() -> None:
    found = slide(big(20_001, 9_000))
    assert sizes(found) == [(0, 5001, 2250), (0, 1251, 563), (0, 313, 141)]
    first, second, third = plan(found)
    assert [level.first for level in (first, second, third)] == [
        {("1", 0.0): 0},
        {("1", 0.0): 626 * 282},
        {("1", 0.0): 626 * 282 + 157 * 71},
    ]
    assert tiles_of((first, second, third)) == 626 * 282 + 157 * 71 + 40 * 18


def test_nothing_is_lacking() -> None:
    assert plan(slide(full((1024, 800), 128 * 100))) == ()


def test_the_slide_with_its_levels() -> None:
    found = slide(big(5000, 3000))
    whole, sources = with_derived(found, plan(found))
    assert [(level.width, level.derived) for level in whole.levels] == [(5000, False), (1250, True), (313, True)]
    assert [rung.factor for rung in whole.rungs] == [1, 1, 1]
    assert sources == (0, 0)
    assert [tiled.frames for tiled in whole.instances[1:]] == [157 * 94 + 40 * 24] * 2
    assert whole.levels[2].maps["1", 0.0].at(39, 23) == FrameRef(2, 157 * 94 + 40 * 24 - 1)
    assert whole.levels[1].spacing == pytest.approx((0.0005 * 3000 / 750, 0.00025 * 5000 / 1250))
    assert found.levels[0] is whole.levels[0]


def test_what_is_not_made() -> None:
    assert plan(slide(big(100_000, 100_000))) == ()  # 156 million tiles
    found = slide(big(5000, 3000))
    base = found.instances[0]
    for image in (
        replace(base.image, bits_allocated=32, bits_stored=32),
        replace(base.image, bits_allocated=1, bits_stored=1),
        replace(base.image, kind="float"),
    ):
        assert plan(replace(found, instances=(replace(base, image=image),))) == ()


def test_how_tiles_are_stored() -> None:
    shades = ImagePixel(8, 8, 1, 16, 12, True, 0, "MONOCHROME1", 1)
    assert (derived_image(shades), derived_syntax(shades)) == (shades, JPEG_LS)
    assert derived_syntax(replace(shades, bits_allocated=8, bits_stored=8, signed=False)) == JPEG
    for colour in (
        ImagePixel(8, 8, 1, 16, 16, False, 0, "PALETTE COLOR", 1),
        ImagePixel(8, 8, 3, 16, 12, False, 1, "RGB", 1),
    ):
        image = derived_image(colour)
        assert (image.samples, image.bits_stored, derived_syntax(image)) == (3, 8, JPEG)
