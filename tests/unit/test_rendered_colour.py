"""Colour, geometry, annotation and the files that come out, against values computed by hand."""

from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms
from pydicom import Dataset

from dicomweb.errors import BadPixels, BadQuery, TooLarge
from dicomweb.pixels.image import ImagePixel, Pixels
from dicomweb.rendered.colour import expand_segments
from dicomweb.rendered.encode import GIF, JPEG, PNG, encode_gif, encode_image, encode_png, frame_time_of
from dicomweb.rendered.geometry import aspect_of, fit
from dicomweb.rendered.image import Source, picture, render_image
from dicomweb.rendered.parameters import Rendering, parse_viewport
from dicomweb.rendered.profiles import standard_profile
from dicomweb.rendered.tables import Descriptor
from tests.unit.rendered_files import PLAIN, opened, read, shown, source_of


def palette(red: list[int], *, first: int = 0, bits: int = 16, **attributes: Any) -> dict[str, Any]:
    """The JSON of an image whose palette is `red` in red, and its reverse in green and blue."""
    ds = Dataset()
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, 4, 1, "PALETTE COLOR"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.PixelRepresentation = 0
    ds.PixelData = b"\0\0"
    for colour, entries in (("Red", red), ("Green", red[::-1]), ("Blue", red[::-1])):
        ds.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [len(entries), first, bits])
        ds.add_new(f"{colour}PaletteColorLookupTableData", "OW", np.array(entries, "<u2").tobytes())
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds.to_json_dict()


def coloured(dataset: dict[str, Any], stored: list[int], dtype: str = "u1") -> list[list[int]]:
    image = ImagePixel.of(dataset)
    array = np.array([stored], dtype)
    found, _ = picture(Source(Pixels(array, image.photometric), image, dataset, 1, {}), PLAIN)
    return [[int(value) for value in pixel] for pixel in found[0]]


# -- palettes (C.7.6.3.1.5, C.7.9.2)


def test_palette_of_sixteen_bits_takes_the_high_byte() -> None:
    assert coloured(palette([0, 0x8000, 0xFFFF]), [0, 1, 2]) == [[0, 255, 255], [128, 128, 128], [255, 0, 0]]


def test_palette_clamps_at_both_ends() -> None:
    table = palette([0, 0x8000, 0xFF00], first=10)
    assert coloured(table, [0, 10, 12, 255]) == [[0, 255, 255], [0, 255, 255], [255, 0, 0], [255, 0, 0]]


def test_palette_of_eight_bits_also_where_sixteen_are_said() -> None:
    for bits in (8, 16):
        assert coloured(palette([0, 100, 255], bits=bits), [0, 1, 2]) == [[0, 255, 255], [100, 100, 100], [255, 0, 0]]


def test_palette_with_signed_values() -> None:
    table = palette([0, 0x8000, 0xFF00], first=65535, PixelRepresentation=1)
    assert coloured(table, [-1, 0, 1], "i1") == [[0, 255, 255], [128, 128, 128], [255, 0, 0]]


def test_palette_that_is_missing_or_short() -> None:
    table = palette([0, 1, 2])
    del table["00281202"]
    with pytest.raises(BadPixels, match="without a palette"):
        coloured(table, [0])
    table = palette([0, 1, 2])
    table["00281103"]["Value"] = [256, 0, 16]
    with pytest.raises(BadPixels, match="6 bytes for 256 entries"):
        coloured(table, [0])


def words(*values: int) -> bytes:
    return np.array(values, "<u2").tobytes()


def test_segmented_palette() -> None:
    # discrete 10 20, linear 4 steps to 60, then both again
    data = words(0, 2, 10, 20, 1, 4, 60, 2, 2, 0, 0)
    expanded = expand_segments(Descriptor(12, 0, 16), data, "x").entries().tolist()
    assert expanded == [10, 20, 30, 40, 50, 60] * 2
    eight = bytes((0, 2, 10, 20, 1, 4, 60, 2, 2, 0, 0, 0, 0))
    assert expand_segments(Descriptor(12, 0, 8), eight, "x").entries().tolist() == expanded


@pytest.mark.parametrize(
    "data",
    [
        words(),
        words(0),
        words(0, 9, 1),
        words(1, 4, 60),  # linear without a beginning
        words(0, 1, 5, 1, 4),
        words(3, 1, 1),
        words(0, 0, 0, 0, 0, 0),
        words(0, 1, 5, 2, 65535, 6, 0),  # an indirect segment of itself
        words(0, 1, 5, 2, 1, 65535, 65535),
        words(0, 1, 5, 2, 0, 0, 0),
    ],
)
def test_segmented_palette_that_lies(data: bytes) -> None:
    with pytest.raises(BadPixels):
        expand_segments(Descriptor(0x10000, 0, 16), data, "x")


def test_segmented_palette_makes_no_more_than_it_says() -> None:
    data = words(0, 1, 7, *(1, 65535, 9) * 100)
    assert len(expand_segments(Descriptor(0x10000, 0, 16), data, "x").entries()) == 0x10000


# -- more than 8 bits, and what is no colour


def test_sixteen_bit_colour_is_scaled() -> None:
    ds = {"00280010": 1, "00280011": 2, "00280002": 3, "00280100": 16, "00280101": 12}
    dataset = {tag: {"vr": "US", "Value": [value]} for tag, value in ds.items()}
    dataset |= {"00280004": {"vr": "CS", "Value": ["RGB"]}, "7FE00010": {"vr": "OW"}}
    image = ImagePixel.of(dataset)
    array = np.array([[[0, 2048, 4095], [0xF000, 1, 16]]], "<u2")
    found, _ = picture(Source(Pixels(array, "RGB"), image, dataset, 1, {}), PLAIN)
    assert found.tolist() == [[[0, 128, 255], [0, 0, 1]]]
    with pytest.raises(BadPixels, match="colour space"):
        picture(Source(Pixels(array, "CMYK"), image, dataset, 1, {}), PLAIN)


# -- profiles


def test_profiles() -> None:
    source = source_of(read("SC_rgb.dcm"))
    plain = picture(source, PLAIN)
    assert plain[1] is None
    same, embedded = picture(source, Rendering(iccprofile="srgb"))
    assert np.array_equal(same, plain[0])
    assert embedded == standard_profile("srgb")
    adobe, embedded = picture(source, Rendering(iccprofile="adobergb"))
    assert adobe[5, 5].tolist() == [219, 0, 0]  # red of sRGB in Adobe RGB (1998)
    for media_type in (JPEG, PNG):
        data = render_image(source, Rendering(iccprofile="adobergb"), media_type)
        assert Image.open(BytesIO(data)).info["icc_profile"] == embedded
    romm = picture(source, Rendering(iccprofile="rommrgb"))[0]
    assert np.abs(romm[5, 5].astype(int) - [179, 70, 27]).max() <= 1  # red of sRGB in ROMM RGB


def test_the_image_s_own_profile() -> None:
    source = source_of(read("SC_rgb.dcm"))
    own = standard_profile("adobergb")
    own_json = {"vr": "OB", "BulkDataURI": "x"}
    path = {"00480105": {"vr": "SQ", "Value": [{"00282000": own_json}]}}
    held = Source(source.pixels, source.image, {**source.dataset, **path}, 1, {"x": own})
    same, embedded = picture(held, Rendering(iccprofile="yes"))
    assert embedded == own
    assert np.array_equal(same, source.pixels.array)
    converted, _ = picture(held, Rendering(iccprofile="srgb"))
    assert converted[5, 5].tolist() == [255, 0, 0]
    for broken in (b"nonsense", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()):
        bad = Source(source.pixels, source.image, {**source.dataset, **path}, 1, {"x": broken})
        with pytest.raises(BadPixels, match="ICC profile"):
            picture(bad, Rendering(iccprofile="yes"))


# -- geometry

GRID = np.arange(8, dtype=np.uint8).reshape(2, 4)


def part(text: str) -> list[list[int]]:
    return fit(GRID, Rendering(viewport=parse_viewport(text)), 1.0).tolist()


def test_regions() -> None:
    assert part(",,1,0,2,2") == [[1, 2], [5, 6]]
    assert part(",,,,-4,") == [[3, 2, 1, 0], [7, 6, 5, 4]]
    assert part(",,,,,-2") == [[4, 5, 6, 7], [0, 1, 2, 3]]
    assert part("2,2,2,1,-2,-1") == [[7, 6]]
    assert part(",,3,1,100,100") == [[7]]
    with pytest.raises(BadQuery, match="outside"):
        part(",,4,0,1,1")


@pytest.mark.parametrize(
    ("viewport", "aspect", "expected"),
    [
        ("100,100", 1.0, (50, 100)),
        ("100,20", 1.0, (20, 40)),
        ("8,", 1.0, (4, 8)),
        (",6", 1.0, (6, 12)),
        ("100,100", 2.0, (100, 100)),
        ("100,100", 0.5, (25, 100)),
        ("1,1", 1.0, (1, 1)),
    ],
)
def test_scaling_keeps_proportions(viewport: str, aspect: float, expected: tuple[int, int]) -> None:
    assert fit(GRID, Rendering(viewport=parse_viewport(viewport)), aspect).shape == expected


def test_pixels_that_are_not_square() -> None:
    def spaced(tag: str, *values: float) -> float:
        return aspect_of({tag: {"vr": "DS", "Value": list(values)}}, 1)

    assert spaced("00280030", 2, 1) == 2.0
    assert spaced("00280034", 1, 2) == 0.5
    assert spaced("00181164", 0.5, 0.5) == 1.0
    assert spaced("00280030", 0, 1) == 1.0
    assert spaced("00280030", 1000, 1) == 1.0
    assert spaced("00280030", 1) == 1.0
    measures = {"vr": "SQ", "Value": [{"00280030": {"vr": "DS", "Value": [3, 1]}}]}
    shared = {"52009229": {"vr": "SQ", "Value": [{"00289110": measures}]}}
    assert aspect_of(shared, 1) == 3.0


def test_an_output_has_a_largest_size() -> None:
    with pytest.raises(BadQuery, match="would make an image"):
        fit(np.zeros((1, 1000), np.uint8), Rendering(viewport=parse_viewport(",16384")), 1.0)
    with pytest.raises(BadPixels, match="ask for a viewport"):
        fit(np.zeros((1, 20000), np.uint8), PLAIN, 1.0)


# -- annotation


def test_nothing_of_the_patient_unless_asked() -> None:
    ds = read("CT_small.dcm")
    wanted = [Rendering(parse_viewport("512,512"), annotation=asked) for asked in ((), ("technique",), ("patient",))]
    plain, technique, patient = (shown(ds, each) for each in wanted)
    left, right = np.s_[:100, :200], np.s_[:100, 300:]
    assert np.array_equal(plain[left], technique[left])
    assert not np.array_equal(plain[right], technique[right])
    assert not np.array_equal(plain[left], patient[left])


def test_overlay_planes_of_frames_and_places() -> None:
    ds = read("liver.dcm")
    ds.add_new(0x60000010, "US", 2)
    ds.add_new(0x60000011, "US", 2)
    ds.add_new(0x60000015, "IS", 2)
    ds.add_new(0x60000051, "US", 2)
    ds.add_new(0x60000050, "SS", [0, 3])  # one row above the image
    ds.add_new(0x60003000, "OB", bytes((0b1101_0100, 0)))  # frame 2: 0 0 / 1 0, frame 3: 1 0 / 1 1
    drawn = [np.argwhere(shown(ds, Rendering(annotation=("technique",)), frame)[:2, :6] == 255).tolist()
             for frame in (1, 2, 3)]  # fmt: skip
    assert drawn == [[], [[0, 2]], [[0, 2], [0, 3]]]
    ds[0x60003000].value = b"\0"
    ds[0x60000010].value = 60000
    with pytest.raises(BadPixels, match="overlay"):
        shown(ds, Rendering(annotation=("technique",)), 2)


# -- files


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3), (1, 1), (64, 1, 3)])
def test_png_is_exact(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    assert np.array_equal(opened(encode_png(array)), array)
    assert np.array_equal(opened(encode_png(array[::-1, ::-1])), array[::-1, ::-1])


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 3)])
def test_jpeg_is_baseline_and_follows_quality(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    sizes = [len(encode_image(array, JPEG, quality, None)) for quality in (1, 50, 100)]
    assert sizes == sorted(set(sizes))
    assert b"\xff\xc0" in encode_image(array, JPEG, 90, None)
    best = opened(encode_image(array, JPEG, 100, None)).astype(int)
    assert np.abs(best - array).max() <= (1 if len(shape) == 2 else 3)
    assert opened(encode_image(array, JPEG, 90, None)).shape == shape


def test_gif() -> None:
    frames = [np.full((4, 4), shade, np.uint8) for shade in (0, 100, 255)]
    image = Image.open(BytesIO(encode_gif(frames, 40)))
    assert (image.n_frames, image.info["duration"], image.info["loop"]) == (3, 40, 0)  # type: ignore[attr-defined]
    single = Image.open(BytesIO(encode_image(frames[1], GIF, 90, None)))
    assert np.asarray(single.convert("L")).tolist() == [[100] * 4] * 4
    with pytest.raises(TooLarge, match="500 frames"):
        encode_gif(frames * 200, 40)


@pytest.mark.parametrize("colours", [(), (3,)])
def test_an_animation_keeps_every_frame_and_the_time(colours: tuple[int, ...]) -> None:
    frames = [np.full((20, 30, *colours), 50, np.uint8) for _ in range(30)]
    frames[7] = frames[7].copy()
    frames[7][3:5, 20:] = 200
    frames[29] = np.random.default_rng(1).integers(0, 2, (20, 30, *colours), np.uint8) * 255
    data = encode_gif(frames, 100 / 3)
    image: Any = Image.open(BytesIO(data))
    assert image.n_frames == 30
    durations = []
    for number, frame in enumerate(frames):
        image.seek(number)
        durations.append(image.info["duration"])
        assert np.array_equal(np.asarray(image.convert("RGB" if colours else "L")), frame)
    assert sum(durations) == 1000
    assert set(durations) == {30, 40}
    by_giflib = imagecodecs.gif_decode(data, index=7)
    assert by_giflib[4, 29].max() == 200


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, 100),
        ({"00181063": [33.3]}, 33.3),
        ({"00181065": [0, 50, 50]}, 50),
        ({"00082144": [25]}, 40),
        ({"00180040": [10]}, 100),
        ({"00181063": [0], "00082144": [0]}, 100),
        ({"00181063": [1e9]}, 10_000),
        ({"00181063": [-5]}, 100),
    ],
)
def test_frame_time(attributes: dict[str, list[float]], expected: float) -> None:
    assert frame_time_of({tag: {"vr": "DS", "Value": value} for tag, value in attributes.items()}) == expected
