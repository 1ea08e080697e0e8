"""Attributes that say anything at all: a picture, or an error that is one of ours."""

import random
from typing import Any

import numpy as np
import pytest

from dicomweb.errors import ArchiveError, BadPixels
from dicomweb.pixels.image import ImagePixel, Pixels
from dicomweb.rendered.attributes import references
from dicomweb.rendered.encode import frame_time_of
from dicomweb.rendered.image import Source, render_image
from dicomweb.rendered.parameters import Rendering, Viewport
from dicomweb.rendered.report import report_html

NUMBERS = [
    0, 1, -1, 2, 8, 12, 16, 255, 256, 4096, 32767, 65535, 65536, -32768, 1e-300, 1e300, -1e308, 10**400, "12", "x",
    None, "nan", "inf", "1e999", {}, {"Alphabetic": "A"}, True, [], "-0",
]  # fmt: skip
SCALARS = (
    "00280034", "00280030", "00280120", "00280121", "00280122", "00281050", "00281051", "00281052", "00281053",
    "00181063", "00281101", "00281102", "00281103", "00283002", "60000010", "60000011", "60000015", "60000050",
    "60000051", "60000102", "00082144", "00180040", "00420015",
)  # fmt: skip
WORDS = ("00281056", "20500020", "00100010", "00080060", "0040A040", "0040A010", "0040A160", "0040DB73")
BINARIES = ("00281201", "00281202", "00281203", "00281221", "00281222", "00281223", "00282000", "00283006", "60003000")
SEQUENCES = ("00283000", "00283010", "00480105", "52009229", "52009230", "00289132", "00289145", "00289110", "0040A730",
             "0040A300", "00081199")  # fmt: skip


def anything(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for tag in rng.sample(SCALARS, rng.randint(0, len(SCALARS))):
        found[tag] = {"vr": "DS", "Value": rng.choices(NUMBERS, k=rng.choice((1, 2, 3, 3)))}
    for tag in rng.sample(WORDS, 3):
        found[tag] = {
            "vr": "CS",
            "Value": [rng.choice(["SIGMOID", "INVERSE", "TEXT", "NUM", "CONTAINER", "", None, 7, {}])],
        }
    for tag in rng.sample(BINARIES, rng.randint(0, len(BINARIES))):
        found[tag] = rng.choice(
            [
                {"vr": "OW", "InlineBinary": "AAECAwQFBgc="},
                {"vr": "OW", "BulkDataURI": "there"},
                {"vr": "OW", "BulkDataURI": "gone"},
                {"vr": "US", "Value": rng.choices(NUMBERS, k=3)},
                {"vr": "OW"},
            ]
        )
    for tag in rng.sample(SEQUENCES, 3 if depth < 3 else 0):
        found[tag] = {"vr": "SQ", "Value": [rng.choice([anything(rng, depth + 1), {}, None, "x"]) for _ in range(2)]}
    return found


@pytest.mark.parametrize("seed", range(4))
def test_only_our_errors(seed: int) -> None:
    rng = random.Random(seed)
    bulk = {"there": bytes(range(256)) * 600}
    wanted = [
        Rendering(annotation=("patient", "technique")),
        Rendering(Viewport(300, 300), iccprofile="srgb"),
        Rendering(Viewport(3, None), annotation=("patient",)),
    ]
    shown = 0
    for _ in range(80):
        dataset = anything(rng)
        dtype = np.dtype(rng.choice(["u1", "i1", "<u2", "<i2", "<u4", "<f4", "<f8"]))
        bits = 8 * dtype.itemsize
        photometric = rng.choice(["MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL"])
        samples = 3 if photometric in {"RGB", "YBR_FULL"} else 1
        kind: Any = {"<f4": "float", "<f8": "double"}.get(dtype.str, "integer")
        image = ImagePixel(
            5, 7, samples, bits, rng.randint(1, bits), dtype.kind == "i", 0, photometric, 2, kind
        )  # fmt: skip
        raw = rng.randbytes(5 * 7 * samples * dtype.itemsize)
        array = np.frombuffer(raw, dtype).reshape(image.shape)
        list(references(dataset, (1, 2)))
        frame_time_of(dataset)
        report_html(dataset, ("patient",))
        try:
            source = Source(Pixels(array, photometric), image, dataset, rng.choice((1, 2, 99)), bulk)
            render_image(source, rng.choice(wanted), rng.choice(["image/jpeg", "image/png", "image/gif"]))
            shown += 1
        except ArchiveError:
            pass
    assert shown > 10


@pytest.mark.parametrize("written", ["--5", "+-1", "²", "1" * 5000, "1.5", "x"])
def test_a_count_of_frames_that_is_no_integer_is_named(written: str) -> None:
    dataset = {"7FE00010": {"vr": "OW"}, "00280008": {"vr": "IS", "Value": [written]}}
    with pytest.raises(BadPixels) as refused:
        ImagePixel.of(dataset)
    assert refused.value.attribute == "NumberOfFrames"
