"""Every transfer syntax and kind of pixels: what is encoded comes back bit by bit, or nearly where it may be lossy."""

from dataclasses import replace

import numpy as np
import pytest

from dicomweb.media import EXPLICIT_LE
from dicomweb.pixels.decode import decode_frame
from dicomweb.pixels.encode import encode_frame
from dicomweb.pixels.image import ImagePixel, Pixels
from dicomweb.pixels.syntaxes import SYNTAXES, decoded_photometric, encoded_form, targets

ROWS, COLUMNS = 37, 53


def kind(allocated: int, stored: int, *, signed: bool = False, photometric: str = "MONOCHROME2") -> ImagePixel:
    samples = 1 if photometric.startswith("MONO") or photometric == "PALETTE COLOR" else 3
    return ImagePixel(ROWS, COLUMNS, samples, allocated, stored, signed, 0, photometric, 1)


KINDS = [
    kind(1, 1),
    kind(8, 8),
    kind(8, 8, signed=True),
    kind(8, 5),
    kind(16, 8),
    kind(16, 10),
    kind(16, 12),
    kind(16, 12, signed=True),
    kind(16, 16),
    kind(16, 16, signed=True),
    kind(16, 12, photometric="MONOCHROME1"),
    kind(32, 32),
    kind(32, 24, signed=True),
    kind(8, 8, photometric="PALETTE COLOR"),
    kind(16, 16, photometric="PALETTE COLOR"),
    kind(8, 8, photometric="RGB"),
    kind(16, 16, photometric="RGB"),
    kind(8, 8, photometric="YBR_FULL"),
]


def frame(image: ImagePixel) -> Pixels:
    """A smooth picture with noise that reaches both ends of the range."""
    rng = np.random.default_rng(7)
    low = -(1 << (image.bits_stored - 1)) if image.signed else 0
    high = low + (1 << image.bits_stored) - 1
    y, x = np.mgrid[:ROWS, :COLUMNS]
    wave = (np.sin(x / 9) + np.cos(y / 7) + 2) / 4
    if image.samples == 3:
        wave = np.stack([wave, wave[::-1], wave[:, ::-1]], -1)
    values = low + wave * (high - low) + rng.normal(0, (high - low) / 200 + 0.01, wave.shape)
    values[0, 0], values[-1, -1] = low, high
    return Pixels(np.clip(np.rint(values), low, high).astype(image.dtype), image.photometric)


def test_single_bits_go_where_the_standard_lets_them() -> None:
    assert targets(kind(1, 1), EXPLICIT_LE) == {f"1.2.840.10008.1.2.{end}" for end in ("5", "4.90", "8.1")}


@pytest.mark.parametrize("end", ["4.90", "4.110"])
def test_a_frame_is_the_same_whatever_the_number_of_threads(end: str) -> None:
    image = replace(kind(16, 12), rows=700, columns=900)
    array = np.random.default_rng(3).integers(0, 1 << 12, image.shape, np.uint16)
    data = encode_frame(f"1.2.840.10008.1.2.{end}", Pixels(array, image.photometric), image)
    for threads in (1, 4):
        assert np.array_equal(decode_frame(f"1.2.840.10008.1.2.{end}", data, image, threads).array, array)


CASES = [
    pytest.param(
        image,
        uid,
        id=f"{image.photometric}-{image.bits_allocated}-{image.bits_stored}-{'s' if image.signed else 'u'}-{uid[18:]}",
    )
    for image in KINDS
    for uid in sorted(targets(image, EXPLICIT_LE) - {EXPLICIT_LE})
]


@pytest.mark.parametrize(("image", "uid"), CASES)
def test_what_is_encoded_comes_back(image: ImagePixel, uid: str) -> None:
    pixels = frame(image)
    data = encode_frame(uid, pixels, image)
    assert len(data) % 2 == 0
    form = encoded_form(image, EXPLICIT_LE, uid)
    again = decode_frame(uid, data, form)
    assert again.array.dtype == image.dtype
    assert again.photometric == decoded_photometric(form, uid)
    if SYNTAXES[uid].lossless:
        assert again.photometric == pixels.photometric
        assert np.array_equal(again.array, pixels.array)
    elif again.photometric == pixels.photometric:
        difference = again.array.astype(np.int64) - pixels.array.astype(np.int64)
        assert np.sqrt((difference**2).mean()) < (1 << image.bits_stored) / 60 + 2
