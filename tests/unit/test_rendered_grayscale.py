"""The grayscale pipeline against values computed by hand from PS3.3's formulas."""

from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence

from dicomweb.errors import BadPixels
from dicomweb.rendered.grayscale import shade_table
from dicomweb.rendered.parameters import Rendering, Window
from tests.unit.rendered_files import shades, shown

U2, I2 = np.dtype("<u2"), np.dtype("<i2")


def values(*stored: float, dtype: Any = I2) -> np.ndarray:
    return np.array(stored, dtype)


def lut(first: int, entries: list[int], bits: int = 16, *, said: int | None = None, vr: str = "US") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", vr, [len(entries) if said is None else said, first, bits])
    item.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    return item


def window(center: float, width: float, function: str = "LINEAR") -> Rendering:
    return Rendering(window=Window(center, width, function))  # type: ignore[arg-type]


# -- windows (C.11.2.1.2, C.11.2.1.3)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        # ((x - 39.5) / 399 + 0.5) * 255, black up to -160, white above 239
        ("LINEAR", {-161: 0, -160: 0, -159: 1, 40: 128, 140: 192, 239: 255, 240: 255}),
        # ((x - 40) / 400 + 0.5) * 255
        ("LINEAR_EXACT", {-160: 0, -159: 1, 40: 128, 140: 191, 239: 254, 240: 255}),
        # 255 / (1 + exp(-4 (x - 40) / 400))
        ("SIGMOID", {-160: 30, 40: 128, 140: 186, 240: 225, 32767: 255}),
    ],
)
def test_window_functions(function: str, expected: dict[int, int]) -> None:
    assert shades(values(*expected), window(40, 400, function)) == list(expected.values())
    of_image = {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": function}
    assert shades(values(*expected), **of_image) == list(expected.values())


def test_a_width_of_one_is_a_threshold() -> None:
    assert shades(values(9, 10, 11), window(10.5, 1)) == [0, 0, 255]
    assert shades(values(9, 10, 11), window(10, 1)) == [0, 255, 255]


def test_the_window_that_is_asked_for_precedes_the_image_s() -> None:
    assert shades(values(0, 10), window(5.5, 11), WindowCenter=1000, WindowWidth=1) == [0, 255]


def test_the_first_usable_window_is_taken() -> None:
    assert shades(values(0, 10, 20), WindowCenter=[99, 10.5], WindowWidth=[0, 21]) == [0, 128, 255]
    assert shades(values(0, 10, 20), WindowCenter=["5.5", "10"], WindowWidth=["11", "21"]) == [0, 255, 255]


@pytest.mark.parametrize("width", [0, -400, 0.5])
def test_an_unusable_window_of_the_image_is_passed_over(width: float) -> None:
    assert shades(values(-100, 0, 100), WindowCenter=40, WindowWidth=width) == [0, 128, 255]


# -- without a window


def test_without_a_window_least_to_greatest() -> None:
    assert shades(values(-1000, 0, 3000)) == [0, 64, 255]
    assert shades(values(7, 7, 7)) == [0, 0, 0]
    assert shades(values(0, 65535, dtype=U2)) == [0, 255]


def test_padding_is_black_and_does_not_widen_the_range() -> None:
    stored = values(-2000, 0, 50, 100)
    assert shades(stored, PixelPaddingValue=-2000) == [0, 0, 128, 255]
    assert shades(stored, PixelPaddingValue=-2000, PhotometricInterpretation="MONOCHROME1") == [0, 255, 128, 0]
    assert shades(values(-2000, -1999, 0, 100), PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990) == [0, 0, 0, 255]


def test_up_to_eight_bits_are_shown_as_they_are() -> None:
    assert shades(values(0, 1, 128, 255, dtype=np.uint8), bits=8) == [0, 1, 128, 255]
    assert shades(values(0, 1, 128, 200, dtype=np.uint8), bits=8, PhotometricInterpretation="MONOCHROME1") == [
        255, 254, 127, 55,
    ]  # fmt: skip
    assert shades(values(0, 1, 1, 0, dtype=np.uint8), bits=1) == [0, 255, 255, 0]
    assert shades(values(-128, 0, 127, dtype=np.int8), bits=8) == [0, 128, 255]


# -- stored values (PS3.5 8.1.1)


def test_bits_above_bits_stored_are_no_part_of_the_value() -> None:
    assert shades(values(0xF000, 0x0FFF, 0x5800, dtype=U2), bits=12) == [0, 255, 128]
    # 0x0800 is -2048 in 12 bits, whether or not the sign was extended
    assert shades(values(0x0800, 0x07FF).view(I2), bits=12) == [0, 255]
    assert shades(values(-2048, 2047), bits=12) == [0, 255]


# -- modality (C.11.1)


def test_rescale() -> None:
    assert shades(values(0, 1024, 2048, dtype=U2), window(0, 2049), RescaleSlope=1, RescaleIntercept=-1024) == [
        0, 128, 255,
    ]  # fmt: skip
    assert shades(values(0, 100), RescaleSlope=-2, RescaleIntercept=0) == [255, 0]
    assert shades(values(0, 100), RescaleSlope=0, RescaleIntercept=0) == [0, 255]


def test_modality_table() -> None:
    table = {"ModalityLUTSequence": Sequence([lut(10, [0, 500, 1000])])}
    # before the first entry the first one, after the last the last one
    assert shades(values(0, 10, 11, 12, 99), window(500.5, 1001), **table) == [0, 0, 128, 255, 255]


def test_modality_table_of_signed_values_with_a_descriptor_written_as_unsigned() -> None:
    table = {"ModalityLUTSequence": Sequence([lut(65536 - 2, [0, 25, 50, 75, 100])])}
    assert shades(values(-2, -1, 0, 1, 2), window(50.5, 101), **table) == [0, 64, 128, 191, 255]


def test_a_table_with_65536_entries_says_0() -> None:
    table = {"ModalityLUTSequence": Sequence([lut(0, list(range(65536)), said=0)])}
    assert shades(values(0, 32768, 65535, dtype=U2), **table) == [0, 128, 255]


# -- VOI tables (C.11.2.1.1)


def test_voi_table() -> None:
    table = {"VOILUTSequence": Sequence([lut(100, [0, 128, 255], 8)])}
    assert shades(values(0, 100, 101, 102, 999), **table) == [0, 0, 128, 255, 255]
    twelve = {"VOILUTSequence": Sequence([lut(0, [0, 2048, 4095], 12)])}
    assert shades(values(0, 1, 2), **twelve) == [0, 128, 255]


def test_voi_table_behind_rescale_that_goes_below_zero() -> None:
    table = {"VOILUTSequence": Sequence([lut(-1, [0, 100, 255], 8, vr="SS")])}
    assert shades(values(0, 1, 2, dtype=U2), RescaleSlope=1, RescaleIntercept=-1, **table) == [0, 100, 255]


def test_entries_of_eight_bits_may_be_packed() -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4, 0, 8])
    item.add_new("LUTData", "OW", bytes((0, 50, 100, 255)))
    assert shades(values(0, 1, 2, 3), VOILUTSequence=Sequence([item])) == [0, 50, 100, 255]


def test_more_bits_than_the_descriptor_says_are_believed() -> None:
    table = {"VOILUTSequence": Sequence([lut(0, [0, 32768, 65535], 12)])}
    assert shades(values(0, 1, 2), **table) == [0, 128, 255]


# -- polarity (C.7.6.3.1.2, C.11.6.1.2)


def test_polarity() -> None:
    assert shades(values(0, 25, 100), PhotometricInterpretation="MONOCHROME1") == [255, 191, 0]
    assert shades(values(0, 25, 100), PresentationLUTShape="INVERSE") == [255, 191, 0]
    both = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    assert shades(values(0, 25, 100), **both) == [255, 191, 0]
    assert shades(values(0, 25, 100), PresentationLUTShape="IDENTITY") == [0, 64, 255]


# -- reals and wide integers


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_reals(dtype: str) -> None:
    stored = np.array([0.0, 0.25, 1.0, np.nan, np.inf, -np.inf], dtype)
    assert shades(stored) == [0, 64, 255, 0, 0, 0]
    assert shades(stored, window(0.5, 1, "LINEAR_EXACT"))[:3] == [0, 64, 255]
    assert shades(np.array([np.nan, np.nan], dtype)) == [0, 0]


def test_reals_of_any_size_do_not_overflow() -> None:
    assert len(shades(np.array([-1.7e308, 0, 1.7e308], "<f8"))) == 3


def test_thirty_two_bits() -> None:
    stored = np.array([0, 1 << 30, (1 << 32) - 1], "<u4")
    assert shades(stored, bits=32) == [0, 64, 255]
    assert shades(np.array([-(1 << 31), 0, (1 << 31) - 1], "<i4"), bits=32) == [0, 128, 255]


# -- functional groups (C.7.6.16)


def enhanced() -> Dataset:
    """Three frames of stored 0, 10, 20: a shared window, one of its own for frame 2, a rescale of its own for 3."""
    ds = Dataset()
    ds.file_meta = Dataset()  # type: ignore[assignment]
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, 3, 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.PixelRepresentation, ds.NumberOfFrames = 0, 3
    ds.WindowCenter, ds.WindowWidth = 1000, 1  # the top level comes last
    shared, first, second, third = Dataset(), Dataset(), Dataset(), Dataset()
    shared.FrameVOILUTSequence = Sequence([_window(10.5, 21)])
    second.FrameVOILUTSequence = Sequence([_window(5.5, 11)])
    rescale = Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1, 10, "US"
    third.PixelValueTransformationSequence = Sequence([rescale])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    ds.PerFrameFunctionalGroupsSequence = Sequence([first, second, third])
    ds.PixelData = np.array([0, 10, 20] * 3, "<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def _window(center: float, width: float) -> Dataset:
    item = Dataset()
    item.WindowCenter, item.WindowWidth = center, width
    return item


def test_functional_groups() -> None:
    ds = enhanced()
    assert [shown(ds, frame=frame)[0].tolist() for frame in (1, 2, 3)] == [
        [0, 128, 255],
        [0, 255, 255],
        [128, 255, 255],
    ]


# -- lies


def _explained() -> Dataset:
    item = Dataset()
    item.LUTExplanation = "a table without a table"
    return item


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        (lut(0, [1, 2], said=1000), "4 bytes for 1000 entries"),
        (lut(0, [1, 2], said=0), "for 65536 entries"),
        (lut(0, [1, 2], 17), "out of range"),
        (lut(0, [1, 2], 0), "out of range"),
        (_explained(), "no descriptor"),
    ],
)
@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
def test_tables_that_lie(item: Dataset, complaint: str, sequence: str) -> None:
    with pytest.raises(BadPixels, match=complaint):
        shades(values(0, 1), **{sequence: Sequence([item])})


def test_tables_are_shared_by_images_and_bounded() -> None:
    shade_table.cache_clear()
    for _ in range(3):
        shades(values(0, 1), window(40, 400))
    assert shade_table.cache_info().misses == 1
    for center in range(200):
        shades(values(0, 1), window(center, 400))
    assert shade_table.cache_info().currsize <= 128
