"""JPEG frames of slides: which leave as they are stored, and how they are decoded at a part of their size."""

import struct

import imagecodecs
import numpy as np
import pytest
import simplejpeg

from dicomweb.errors import BadPixels
from dicomweb.frames import FrameTable
from dicomweb.pixels.codestream import jpeg_markers, with_adobe_marker
from dicomweb.pixels.decode import decode_frame, reduced_jpeg
from dicomweb.pixels.image import ImagePixel
from dicomweb.pixels.syntaxes import JPEG_BASELINE
from dicomweb.slides.frame_sizes import OtherSizes, other_sizes
from dicomweb.slides.jpeg import JpegFrames, real_size
from tests.wsi.variants import jpeg, matrix


def image(rows: int, columns: int, photometric: str = "YBR_FULL_422", samples: int = 3) -> ImagePixel:
    return ImagePixel(rows, columns, samples, 8, 8, False, 0, photometric, 1)


COLOUR = jpeg(matrix(64, 48))
GRAY = jpeg(matrix(64, 48, colour=False))


def without_jfif(data: bytes) -> bytes:
    assert data[2:4] == b"\xff\xe0"
    return data[:2] + data[4 + int.from_bytes(data[4:6], "big") :]


def test_what_leaves_as_it_is() -> None:
    frames = JpegFrames(image(48, 64))
    assert frames.sent(COLOUR) is COLOUR
    other = jpeg(matrix(64, 48, seed=2))
    assert frames.sent(other + b"\0") == other + b"\0"
    assert len(frames._heads) == 1  # one look for both
    assert JpegFrames(image(48, 64, "MONOCHROME2", 1)).sent(GRAY) is GRAY


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (COLOUR, image(64, 64)),
        (COLOUR, image(48, 64, "MONOCHROME2", 1)),
        (GRAY, image(48, 64, "MONOCHROME1", 1)),
        (COLOUR.replace(b"\xff\xc0", b"\xff\xc3"), image(48, 64)),
    ],
)
def test_what_must_be_decoded(data: bytes, said: ImagePixel) -> None:
    assert JpegFrames(said).sent(data) is None


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"nonsense", COLOUR[:-40], COLOUR[2:], COLOUR[:100]])
def test_what_is_refused(data: bytes) -> None:
    frames = JpegFrames(image(48, 64))
    frames.sent(COLOUR)
    with pytest.raises(BadPixels):
        frames.sent(data)


def test_rgb_that_does_not_say_so_gets_a_marker() -> None:
    bare = without_jfif(COLOUR)
    assert JpegFrames(image(48, 64)).sent(bare) is bare
    marked = JpegFrames(image(48, 64, "RGB")).sent(bare)
    assert marked == with_adobe_marker(bare) == bare[:2] + bytes.fromhex("ffee000e41646f626500640000000000") + bare[2:]
    assert jpeg_markers(marked).adobe == 0
    assert with_adobe_marker(marked) == marked
    assert JpegFrames(image(48, 64, "RGB")).sent(COLOUR) is COLOUR  # JFIF is YCbCr, whatever the attributes say
    assert np.array_equal(simplejpeg.decode_jpeg(marked), decode_frame(JPEG_BASELINE, bare, image(48, 64, "RGB")).array)


def test_the_real_size_of_a_frame() -> None:
    assert real_size(COLOUR, image(64, 64)) == (48, 64)
    with pytest.raises(BadPixels, match="48 x 64"):
        real_size(COLOUR, image(32, 64))


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("colour", [True, False])
def test_a_reduced_frame_is_the_mean_of_the_whole(factor: int, colour: bool) -> None:
    data = COLOUR if colour else GRAY
    said = image(48, 64) if colour else image(48, 64, "MONOCHROME2", 1)
    whole = decode_frame(JPEG_BASELINE, data, said).array.astype(float)
    shape = (48 // factor, factor, 64 // factor, factor, *whole.shape[2:])
    found = reduced_jpeg(data, said, factor)
    assert found.array.shape == (48 // factor, 64 // factor, *whole.shape[2:])
    assert np.abs(found.array - whole.reshape(shape).mean(axis=(1, 3))).mean() < 1.5
    assert found.photometric == ("RGB" if colour else "MONOCHROME2")


def test_a_reduced_frame_of_rgb() -> None:
    array = matrix(64, 48)
    data = bytes(imagecodecs.jpeg8_encode(array, level=95, colorspace="rgb", outcolorspace="rgb"))
    found = reduced_jpeg(data, image(48, 64, "RGB"), 4).array
    assert np.abs(found - array.reshape(12, 4, 16, 4, 3).mean(axis=(1, 3))).mean() < 3


@pytest.mark.parametrize("data", [COLOUR[:-200], COLOUR[:30], b"", COLOUR.replace(b"\xff\xc0", b"\xff\xc3")])
def test_what_cannot_be_reduced(data: bytes) -> None:
    with pytest.raises(BadPixels):
        reduced_jpeg(data, image(48, 64), 2)
    with pytest.raises(BadPixels):
        reduced_jpeg(COLOUR, image(50, 64), 4)


def table_of(*frames: bytes) -> FrameTable:
    starts = [sum(map(len, frames[:number])) for number in range(len(frames))]
    return FrameTable(b"".join(struct.pack("<QI", *each) for each in zip(starts, map(len, frames), strict=True)))


def test_frames_of_another_size_are_counted_and_some_are_named() -> None:
    small, none = jpeg(matrix(60, 48)), b"\xff\xd8 none"
    # Far behind an application segment, as those of a profile are.
    late = COLOUR[:2] + b"\xff\xe2\xff\xf0" + bytes(0xFFEE) + COLOUR[2:]
    frames = (COLOUR, small, late, none, *[small] * 7, COLOUR)
    found = other_sizes(b"".join(frames), JPEG_BASELINE, table_of(*frames), 48, 64)
    assert found == OtherSizes(9, ((2, 48, 60), (4, 0, 0), (5, 48, 60), (6, 48, 60), (7, 48, 60)))
    assert found is not None
    assert OtherSizes.from_json(found.as_json()) == found
    assert found.told(48, 64).endswith(
        "48 x 64: 2 (48 x 60), 4 (no JPEG), 5 (48 x 60), 6 (48 x 60), 7 (48 x 60), and 4 more"
    )
    assert other_sizes(COLOUR, JPEG_BASELINE, table_of(COLOUR), 48, 64) is None
    assert other_sizes(b"x", "1.2.840.10008.1.2.1", table_of(b"x"), 48, 64) is None


def test_a_frame_in_fragments_has_its_size_from_all_of_them() -> None:
    pieces = struct.pack("<QIQI", 0, 100, 150, len(COLOUR) - 100)
    table = FrameTable(struct.pack("<QI", 1 << 63, 2), pieces)
    buffer = COLOUR[:100] + bytes(50) + COLOUR[100:]
    assert other_sizes(buffer, JPEG_BASELINE, table, 48, 64) is None
    assert other_sizes(buffer, JPEG_BASELINE, table, 64, 64) == OtherSizes(1, ((1, 48, 64),))
