"""Slides over TCP: every tile is what was put in, whatever holds it; caching, dialects, errors."""

import itertools
import re
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tifffile
from PIL import Image
from pydicom import Dataset, dcmread

from dicomweb.rendered.profiles import in_profile, standard_profile
from dicomweb.uids import orthanc_ids
from tests.http.bodies import problem, store
from tests.support import running_server
from tests.unit.encoded import SERIES, sparse_slide
from tests.wsi.make_slide import make_slide
from tests.wsi.variants import (
    HTJ2K,
    J2K,
    JPEG,
    JPEG_LS,
    JPEG_XL,
    NATIVE,
    RLE,
    Matrix,
    Place,
    Series,
    file,
    instance,
    jpeg,
    matrix,
    tiles_of,
)

TILE = 64
SIZE = (150, 100)  # three by two tiles, both edges padded


def stored(web: httpx.Client, *datasets: Dataset) -> str:
    """Store instances of one series; the path of its slide."""
    answer = store(web, *(file(ds) for ds in datasets))
    assert answer.status_code in {200, 202}, answer.text
    return f"/wsi/slides/{datasets[0].SeriesInstanceUID}"


def opened(answer: httpx.Response) -> Matrix:
    assert answer.status_code == 200, answer.text
    image = Image.open(BytesIO(answer.content))
    assert Image.MIME[str(image.format)] == answer.headers["content-type"]
    return np.asarray(image)


def tile(web: httpx.Client, slide: str, x: int, y: int, level: int = 0, **query: Any) -> Matrix:
    return opened(web.get(f"{slide}/tiles/{level}/{x}/{y}", params={"format": "png"} | query))


def refused(answer: httpx.Response, status: int, slug: str) -> str:
    assert (answer.status_code, problem(answer)) == (status, slug), answer.text
    return str(answer.json()["detail"])


def full(array: Matrix, series: Series | None = None, **attributes: Any) -> Dataset:
    height, width = array.shape[:2]
    return instance(series or Series(), tiles_of(array, TILE), (width, height), **attributes)


# -- pixels


@pytest.mark.parametrize("syntax", [NATIVE, J2K, HTJ2K, JPEG_LS, JPEG_XL, RLE])
@pytest.mark.parametrize("colour", [True, False])
def test_every_tile_of_a_lossless_slide(web: httpx.Client, syntax: str, colour: bool) -> None:
    array = matrix(*SIZE, colour=colour)
    slide = stored(web, full(array, syntax=syntax))
    for (y, x), expected in zip(itertools.product(range(2), range(3)), tiles_of(array, TILE), strict=True):
        assert np.array_equal(tile(web, slide, x, y), expected), (x, y)
    assert np.abs(opened(web.get(f"{slide}/tiles/0/1/1")).astype(int) - tiles_of(array, TILE)[4]).mean() < 4


@pytest.mark.parametrize("offset_table", [True, False])
@pytest.mark.parametrize("colour", [True, False])
def test_jpeg_frames_leave_as_they_are_stored(web: httpx.Client, colour: bool, offset_table: bool) -> None:
    frames = tiles_of(matrix(*SIZE, colour=colour), TILE)
    encoded = [jpeg(frame) for frame in frames]
    said = "YBR_FULL_422" if colour else "MONOCHROME2"
    ds = instance(
        Series(), frames, SIZE, syntax=JPEG, encoded=encoded, offset_table=offset_table, PhotometricInterpretation=said
    )
    slide = stored(web, ds)
    for (y, x), expected in zip(itertools.product(range(2), range(3)), encoded, strict=True):
        answer = web.get(f"{slide}/tiles/0/{x}/{y}")
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.content.rstrip(b"\0") == expected.rstrip(b"\0")
        decoded = np.asarray(Image.open(BytesIO(expected)))
        assert np.array_equal(tile(web, slide, x, y), decoded)


def test_rgb_in_jpeg_says_so(web: httpx.Client) -> None:
    """The stream holds RGB without a marker: browsers would take it for YCbCr (16 bytes tell them)."""
    frames = tiles_of(matrix(*SIZE), TILE)
    marked = [_jpeg_of_rgb(frame) for frame in frames]
    bare = [data[:2] + data[18:] for data in marked]
    assert all(data[2:4] == b"\xff\xee" for data in marked)
    slide = stored(web, instance(Series(), frames, SIZE, syntax=JPEG, encoded=bare))
    answer = web.get(f"{slide}/tiles/0/1/0")
    assert len(answer.content.rstrip(b"\0")) == len(bare[1].rstrip(b"\0")) + 16
    assert np.abs(opened(answer).astype(int) - frames[1]).mean() < 4
    assert np.abs(tile(web, slide, 1, 0).astype(int) - frames[1]).mean() < 4
    asis = stored(web, instance(Series(), frames, SIZE, syntax=JPEG, encoded=marked))
    assert web.get(f"{asis}/tiles/0/1/0").content.rstrip(b"\0") == marked[1].rstrip(b"\0")


def _jpeg_of_rgb(frame: Matrix) -> bytes:
    """Three components of RGB with an Adobe marker right behind SOI, and nothing else that tells."""
    import imagecodecs

    data = bytes(imagecodecs.jpeg8_encode(frame, level=95, colorspace="rgb", outcolorspace="rgb"))
    start = data.index(b"\xff\xee")
    plain = data[:2] + data[start : start + 16] + data[2:start] + data[start + 16 :]
    names = plain.index(b"\xff\xc0") + 10
    scan = plain.index(b"\xff\xda") + 5
    out = bytearray(plain)
    for index in range(3):
        out[names + 3 * index] = out[scan + 2 * index] = index + 1
    return bytes(out)


def test_shades_of_16_bits_are_alike_in_all_tiles(web: httpx.Client) -> None:
    array = matrix(*SIZE, bits=16, colour=False)
    slide = stored(web, full(array, syntax=JPEG_LS))
    whole = np.rint(array.astype(float) / 65535 * 255)
    for (y, x), expected in zip(itertools.product(range(2), range(3)), tiles_of(whole, TILE, 65535), strict=True):
        shown = tile(web, slide, x, y)
        inside = np.s_[: min(TILE, SIZE[1] - y * TILE), : min(TILE, SIZE[0] - x * TILE)]
        assert np.abs(shown[inside] - expected[inside]).max() <= 1
    narrow = tile(web, slide, 0, 0, window="20000,2000,linear-exact")
    assert {0, 255} <= set(np.unique(narrow))


def test_palette(web: httpx.Client) -> None:
    index = matrix(*SIZE, colour=False)
    table = np.random.default_rng(3).integers(0, 256, (3, 256)).astype("<u2") * 257
    ds = full(index, PhotometricInterpretation="PALETTE COLOR")
    for colour, values in zip(("Red", "Green", "Blue"), table, strict=True):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", values.tobytes())
    slide = stored(web, ds)
    expected = (table.T >> 8).astype(np.uint8)[tiles_of(index, TILE)[1]]
    assert np.array_equal(tile(web, slide, 1, 0), expected)


def test_sparse_tiles_and_their_holes(web: httpx.Client) -> None:
    array = matrix(*SIZE)
    frames = tiles_of(array, TILE)
    taken = [4, 0, 2]
    places = [Place(TILE * (i % 3), TILE * (i // 3)) for i in taken]
    slide = stored(web, instance(Series(), [frames[i] for i in taken], SIZE, places=places))
    for index in range(6):
        shown = tile(web, slide, index % 3, index // 3)
        assert np.array_equal(shown, frames[index] if index in taken else np.full_like(shown, 255))
    hole = web.get(f"{slide}/tiles/0/1/0")
    assert web.get(f"{slide}/tiles/0/1/0", headers={"If-None-Match": hole.headers["etag"]}).status_code == 304
    refused(web.get(f"{slide}/tiles/0/3/0"), 404, "not-found")


def test_frames_that_lie_anywhere_are_put_together(web: httpx.Client) -> None:
    array = matrix(*SIZE)
    corners = [(0, 0), (50, 0), (86, 10), (0, 36), (40, 36), (86, 36)]
    frames = [np.ascontiguousarray(array[y : y + TILE, x : x + TILE]) for x, y in corners]
    places = [Place(x, y) for x, y in corners]
    slide = stored(web, instance(Series(), frames, SIZE, places=places))
    expected = np.full((*SIZE[::-1], 3), 255, np.uint8)
    for (x, y), frame in zip(corners, frames, strict=True):
        expected[y : y + TILE, x : x + TILE] = frame
    for (y, x), part in zip(itertools.product(range(2), range(3)), tiles_of(expected, TILE), strict=True):
        assert np.array_equal(tile(web, slide, x, y), part)


def test_concatenation(web: httpx.Client) -> None:
    array = matrix(*SIZE)
    frames, series = tiles_of(array, TILE), Series()
    parts = [
        instance(series, frames[first : first + count], SIZE, ConcatenationUID="1.2.3", InConcatenationNumber=number,
                 ConcatenationFrameOffsetNumber=first, InstanceNumber=number)
        for number, (first, count) in enumerate([(0, 1), (1, 3), (4, 2)], 1)
    ]  # fmt: skip
    slide = stored(web, parts[2], parts[0], parts[1])
    for index, expected in enumerate(frames):
        assert np.array_equal(tile(web, slide, index % 3, index // 3), expected)


def test_optical_paths_and_focal_planes(web: httpx.Client) -> None:
    layers = [matrix(*SIZE, seed=seed, colour=False) for seed in range(9)]
    frames = [frame for layer in layers for frame in tiles_of(layer, TILE)]
    ds = instance(Series(), frames, SIZE, paths=("DAPI", "FITC", "CY5"), planes=3)
    slide = stored(web, ds)
    described = web.get(slide).json()
    assert [path["identifier"] for path in described["optical_paths"]] == ["DAPI", "FITC", "CY5"]
    assert described["focal_planes"] == {"z_um": [0.0, 2.0, 4.0], "default": 1}
    for (p, path), focal in itertools.product(enumerate(("DAPI", "FITC", "CY5")), range(3)):
        shown = tile(web, slide, 1, 1, path=path, focal=focal)
        assert np.array_equal(shown, tiles_of(layers[3 * p + focal], TILE)[4])
    assert np.array_equal(tile(web, slide, 1, 1), tile(web, slide, 1, 1, path="DAPI", focal=1))
    refused(web.get(f"{slide}/tiles/0/0/0?path=TRITC"), 404, "not-found")
    refused(web.get(f"{slide}/tiles/0/0/0?focal=3"), 404, "not-found")
    refused(web.get(f"{slide}/tiles/0/0/0?focal=-1"), 400, "bad-query")


def test_colour_profiles(web: httpx.Client) -> None:
    array, adobe = matrix(*SIZE), standard_profile("adobergb")
    frames = tiles_of(array, TILE)
    encoded = [jpeg(frame) for frame in frames]
    lossless = full(array, syntax=J2K)
    lossy = instance(Series(), frames, SIZE, syntax=JPEG, encoded=encoded, PhotometricInterpretation="YBR_FULL_422")
    for ds in (lossless, lossy):
        ds.OpticalPathSequence[0].ICCProfile = adobe + b"\0" * (len(adobe) % 2)
        slide = stored(web, ds)
        plain = tile(web, slide, 1, 0)
        expected, _ = in_profile(plain, adobe, "srgb")
        assert not np.array_equal(expected, plain)
        assert np.array_equal(tile(web, slide, 1, 0, iccprofile="srgb"), expected)
        for kind in ("png", "jpeg"):
            embedded = web.get(f"{slide}/tiles/0/1/0?format={kind}&iccprofile=yes")
            assert Image.open(BytesIO(embedded.content)).info["icc_profile"].startswith(adobe)
            assert "icc_profile" not in Image.open(BytesIO(web.get(f"{slide}/tiles/0/1/0?format={kind}").content)).info
        region = opened(web.get(f"{slide}/region?region=64,0,64,60&format=png&iccprofile=srgb"))
        assert np.array_equal(region, expected[:60])
    raw = web.get(f"{slide}/tiles/0/1/0?iccprofile=yes").content.rstrip(b"\0")
    assert raw.endswith(encoded[1].rstrip(b"\0")[20:])  # what follows the JFIF segment is what was stored
    refused(web.get(f"{slide}/tiles/0/1/0?iccprofile=cmyk"), 400, "bad-query")
    gray = stored(web, full(matrix(*SIZE, colour=False)))
    assert opened(web.get(f"{gray}/tiles/0/1/0?iccprofile=yes")).ndim == 2


# -- levels that are not stored


def test_a_missing_level_is_made_of_the_next_finer_one(web: httpx.Client) -> None:
    array = matrix(2100, 1300)
    frames = [jpeg(frame) for frame in tiles_of(array, 256)]
    ds = instance(
        Series(), tiles_of(array, 256), (2100, 1300), syntax=JPEG, encoded=frames,
        PhotometricInterpretation="YBR_FULL_422",
    )  # fmt: skip
    slide = stored(web, ds)
    levels = web.get(slide).json()["levels"]
    assert [(level["width"], level["height"], level["stored"]) for level in levels] == [
        (2100, 1300, True),
        (525, 325, False),
    ]
    quarter = np.asarray(Image.fromarray(array).reduce(4))
    for (y, x), expected in zip(itertools.product(range(2), range(3)), tiles_of(quarter, 256), strict=True):
        shown = tile(web, slide, x, y, level=1)
        assert shown.shape == (256, 256, 3)
        assert np.abs(shown.astype(int) - expected).mean() < 3
    assert (tile(web, slide, 2, 1, level=1)[70:] == 255).all()


# -- regions


def test_a_region_of_full_resolution_is_exact(web: httpx.Client) -> None:
    array = matrix(*SIZE)
    slide = stored(web, full(array, syntax=J2K))
    shown = opened(web.get(f"{slide}/region?region=30,20,90,70&format=png"))
    assert np.array_equal(shown, array[20:90, 30:120])
    assert np.array_equal(opened(web.get(f"{slide}/region?format=png")), array)
    clipped = opened(web.get(f"{slide}/region?region=140,90,90,70&format=png"))
    assert np.array_equal(clipped, array[90:, 140:])
    half = opened(web.get(f"{slide}/region?region=20,20,100,60&width=50&format=png"))
    assert half.shape == (30, 50, 3)
    assert np.abs(half.astype(int) - np.asarray(Image.fromarray(array[20:80, 20:120]).reduce(2))).mean() < 3


def test_a_region_in_physical_units(web: httpx.Client) -> None:
    array = matrix(*SIZE)
    slide = stored(web, full(array))  # 0.25 µm across, 0.5 µm down
    shown = opened(web.get(f"{slide}/region?region=5,10,25,20&unit=um&format=png"))
    assert np.array_equal(shown, array[20:60, 20:120])
    assert opened(web.get(f"{slide}/region?region=0,0,25,25&unit=um&mpp=1")).shape == (25, 25, 3)
    assert np.array_equal(
        opened(web.get(f"{slide}/region?region=20,50,40,50&unit=percent&format=png")), array[50:, 30:90]
    )
    assert opened(web.get(f"{slide}/thumbnail?width=60")).shape == (40, 60, 3)


def test_a_region_as_tiff_says_how_large_its_pixels_are(web: httpx.Client) -> None:
    array = matrix(*SIZE)
    slide = stored(web, full(array, syntax=J2K))  # 0.25 µm across, 0.5 µm down
    answer = web.get(f"{slide}/region?region=30,20,90,70&format=tiff&iccprofile=srgb")
    assert answer.headers["content-type"] == "image/tiff"
    with tifffile.TiffFile(BytesIO(answer.content)) as tiff:
        page = tiff.pages.first
        assert np.array_equal(page.asarray(), array[20:90, 30:120])
        assert page.get_resolution("MICROMETER") == pytest.approx((4.0, 2.0))
        assert page.iccprofile
    half = web.get(f"{slide}/region?region=20,20,100,60&width=50&format=tiff")
    with tifffile.TiffFile(BytesIO(half.content)) as tiff:
        assert tiff.pages.first.get_resolution("MICROMETER") == pytest.approx((2.0, 1.0))
        assert tiff.pages.first.iccprofile is None
    refused = web.get(f"{slide}/tiles/0/0/0?format=tiff")
    assert (refused.status_code, refused.json()["attribute"]) == (400, "format")


@pytest.mark.parametrize(
    "query",
    [
        "region=1,2,3", "region=a,0,1,1", "region=200,0,5,5", "region=0,0,0,5", "width=0", "height=-1", "width=99999",
        "unit=inch&region=0,0,1,1", "mpp=0", "mpp=1&width=5", "format=gif", "window=1", "width=9000",
    ],
)  # fmt: skip
def test_bad_parameters(web: httpx.Client, query: str, small: str) -> None:
    refused(web.get(f"{small}/region?{query}"), 400, "bad-query")


@pytest.fixture
def small(web: httpx.Client) -> str:
    return stored(web, full(matrix(*SIZE)))


# -- HTTP


def test_caching(web: httpx.Client) -> None:
    series, array = Series(), matrix(*SIZE)
    slide = stored(web, full(array, series))
    described = web.get(slide)
    tag, version = described.headers["etag"], described.json()["version"]
    assert described.headers["cache-control"] == "private, no-cache"
    assert web.get(slide, headers={"If-None-Match": tag}).status_code == 304
    assert "immutable" in web.get(f"{slide}?v={version}").headers["cache-control"]
    path = f"{slide}/tiles/0/1/1"
    first = web.get(f"{path}?v={version}")
    assert first.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert web.get(path).headers["cache-control"] == "private, no-cache"
    head = web.head(path)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", first.headers["etag"])
    assert int(head.headers["content-length"]) == len(first.content)
    again = web.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert web.get(f"{path}?format=png").headers["etag"] != first.headers["etag"]
    assert described.json()["tiles"].endswith(f"{slide}/tiles/{{level}}/{{x}}/{{y}}?v={version}")

    half = np.asarray(Image.fromarray(array).reduce(2))
    stored(web, full(half, series))
    changed = web.get(slide, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert [level["width"] for level in changed.json()["levels"]] == [150, 75]
    assert "immutable" not in web.get(f"{path}?v={version}").headers["cache-control"]
    assert np.array_equal(tile(web, slide, 0, 0, level=1), tiles_of(half, TILE)[0])


def test_what_is_not_there(web: httpx.Client, small: str) -> None:
    for path in ("tiles/1/0/0", "tiles/0/3/0", "tiles/0/0/2", "tiles/0/x/0", "tiles/0/-1/0", "tiles/0/99999999999/0"):
        refused(web.get(f"{small}/{path}"), 404, "not-found")
    refused(web.get("/wsi/slides/1.2.3.4.5.6"), 404, "not-found")
    refused(web.get("/wsi/slides/nonsense"), 400, "bad-request")
    refused(web.get(f"{small}/tiles/0/0/0?format=gif"), 400, "bad-query")
    label = full(matrix(*SIZE), ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"])
    assert "slide" in refused(web.get(stored(web, label)), 404, "not-found")


def test_identical_misses_are_made_once(web: httpx.Client) -> None:
    slide = stored(web, full(matrix(*SIZE), syntax=J2K))
    with ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda _: web.get(f"{slide}/tiles/0/1/0").content, range(16)))
    assert len(set(bodies)) == 1


# -- hostile and broken


def test_frames_of_another_size(web: httpx.Client) -> None:
    """Some writers cut frames at the edges; what is larger than Rows and Columns say is refused."""
    array = matrix(*SIZE)
    frames = tiles_of(array, TILE)
    encoded = [jpeg(frame) for frame in frames]
    cut = np.ascontiguousarray(frames[2][:, :22])
    encoded[2] = jpeg(cut)
    encoded[3] = jpeg(np.zeros((TILE, 2 * TILE, 3), np.uint8))
    encoded[4] = encoded[4][:200]
    encoded[5] = b"not a JPEG stream at all"
    ds = instance(Series(), frames, SIZE, syntax=JPEG, encoded=encoded, PhotometricInterpretation="YBR_FULL_422")
    slide = stored(web, ds)
    shown = opened(web.get(f"{slide}/tiles/0/2/0"))
    assert shown.shape == (TILE, TILE, 3)
    assert (shown[:, 30:] > 250).all()
    assert np.abs(shown[:, :22].astype(int) - cut).mean() < 4
    # The manifest says so before anybody asks for them; the one that is cut later has its size.
    [problem] = [each for each in web.get(slide).json()["problems"] if each["name"] == "other-size"]
    assert problem["detail"].endswith("say, 64 x 64: 3 (64 x 22), 4 (64 x 128), 6 (no JPEG)"), problem
    assert "64 x 128" in refused(web.get(f"{slide}/tiles/0/0/1"), 422, "bad-pixels")
    assert "cut" in refused(web.get(f"{slide}/tiles/0/1/1"), 422, "bad-pixels")
    assert "JPEG" in refused(web.get(f"{slide}/tiles/0/2/1"), 422, "bad-pixels")
    refused(web.get(f"{slide}/region"), 422, "bad-pixels")
    refused(web.get(f"{slide}/region?width={SIZE[0] * 3 // 4}"), 422, "bad-pixels")
    assert opened(web.get(f"{slide}/tiles/0/0/0")).shape == (TILE, TILE, 3)
    # The whole, at half the size: what is broken is empty there.
    small = opened(web.get(f"{slide}/region?width={SIZE[0] // 2}&format=png"))
    assert (small[TILE // 2 + 1 :] > 250).all()
    wanted = np.asarray(Image.fromarray(array[:TILE, : 2 * TILE]).reduce(2))
    assert np.abs(small[: TILE // 2 - 1, : TILE - 1].astype(int) - wanted[:-1, :-1]).mean() < 6


def test_the_rest_of_a_broken_slide_is_served(web: httpx.Client) -> None:
    series, array = Series(), matrix(*SIZE)
    base = full(array, series)
    broken = full(array, series, TotalPixelMatrixColumns=0)
    vast = full(array, series, TotalPixelMatrixColumns=2**32 - 1, TotalPixelMatrixRows=2**32 - 1)
    other = full(np.asarray(Image.fromarray(array).reduce(2)), series, ContainerIdentifier="C-9")
    below = instance(series, tiles_of(array, TILE)[:1], (75, 50), places=[Place(-64, -64)])
    slide = stored(web, base, broken, vast, other, below)
    described = web.get(slide).json()
    assert {problem["name"] for problem in described["problems"]} == {"bad-matrix", "other-slide", "outside"}
    assert np.array_equal(tile(web, slide, 1, 1), tiles_of(array, TILE)[4])


def test_a_vast_matrix_makes_no_vast_work(web: httpx.Client) -> None:
    side = 2**31 - 1
    frames = tiles_of(matrix(TILE, TILE), TILE)
    slide = stored(web, instance(Series(), frames, (side, side), places=[Place(0, 0)]))
    assert np.array_equal(tile(web, slide, 0, 0), frames[0])
    assert (tile(web, slide, side // TILE, side // TILE) == 255).all()
    refused(web.get(f"{slide}/thumbnail"), 413, "too-large")
    refused(web.get(f"{slide}/region?width=8192"), 400, "bad-query")
    document = web.get(f"/wsi/deepzoom/{slide.rsplit('/', 1)[1]}.dzi")
    assert document.status_code == 200
    refused(web.get(f"/wsi/deepzoom/{slide.rsplit('/', 1)[1]}_files/0/0_0.jpeg"), 404, "not-found")


# -- Orthanc


def test_orthanc(web: httpx.Client) -> None:
    made = make_slide(700, 500, levels=2)
    assert store(web, *made.files).status_code == 200
    first = dcmread(BytesIO(made.files[0]))
    identifier = orthanc_ids(first.PatientID, made.study, made.series, first.SOPInstanceUID).series
    found = web.get(f"/wsi/pyramids/{identifier}").json()
    assert found == {
        "ID": identifier,
        "Resolutions": [1.0, 2.0],
        "Sizes": [[700, 500], [350, 250]],
        "TilesCount": [[3, 2], [2, 1]],
        "TilesSizes": [[256, 256], [256, 256]],
        "TotalWidth": 700,
        "TotalHeight": 500,
        "BackgroundColor": "#ffffff",
        "ImagedVolumeWidth": pytest.approx(0.35),
        "ImagedVolumeHeight": pytest.approx(0.25),
    }
    raw = web.get(f"/wsi/tiles/{identifier}/0/2/1")
    assert raw.headers["content-type"] == "image/jpeg"
    assert raw.content == web.get(f"/wsi/slides/{made.series}/tiles/0/2/1").content
    asked = web.get(f"/wsi/tiles/{identifier}/0/2/1", headers={"Accept": "image/png"})
    assert np.array_equal(opened(asked), opened(raw))
    missing = web.get(f"/wsi/tiles/{identifier}/2/0/0")
    assert (missing.status_code, missing.json()["OrthancStatus"]) == (404, 17)
    assert web.get("/wsi/pyramids/00000000-00000000-00000000-00000000-00000000").status_code == 404
    assert web.get("/wsi/pyramids/nonsense").status_code == 404
    lossless = full(matrix(*SIZE), syntax=J2K)
    stored(web, lossless)
    ids = orthanc_ids(
        lossless.PatientID, lossless.StudyInstanceUID, lossless.SeriesInstanceUID, lossless.SOPInstanceUID
    )
    assert web.get(f"/wsi/tiles/{ids.series}/0/0/0").headers["content-type"] == "image/png"
    other = web.get(f"/wsi/tiles/{ids.series}/0/0/0", headers={"Accept": "image/jp2"})
    assert other.status_code == 406


# -- DeepZoom and IIIF


def test_deepzoom(web: httpx.Client) -> None:
    array = matrix(*SIZE)
    slide = stored(web, full(array))
    series = slide.rsplit("/", 1)[1]
    document = web.get(f"/wsi/deepzoom/{series}.dzi")
    assert 'TileSize="64"' in document.text
    assert '<Size Width="150" Height="100"/>' in document.text
    whole = np.zeros_like(array)
    for x, y in itertools.product(range(3), range(2)):
        part = opened(web.get(f"/wsi/deepzoom/{series}_files/8/{x}_{y}.png"))
        whole[y * TILE : y * TILE + part.shape[0], x * TILE : x * TILE + part.shape[1]] = part
    assert np.array_equal(whole, array)
    for level, shape in ((7, (50, 64, 3)), (5, (13, 19, 3)), (0, (1, 1, 3))):
        assert opened(web.get(f"/wsi/deepzoom/{series}_files/{level}/0_0.jpeg")).shape == shape
    for path in ("9/0_0.jpeg", "8/3_0.jpeg", "8/0_0.gif", "x/0_0.jpeg", "8/0.jpeg"):
        refused(web.get(f"/wsi/deepzoom/{series}_files/{path}"), 404, "not-found")
    refused(web.get(f"/wsi/deepzoom/{series}"), 404, "not-found")


def test_iiif(web: httpx.Client) -> None:
    array = matrix(*SIZE)
    slide = stored(web, full(array))
    image = f"/wsi/iiif/{slide.rsplit('/', 1)[1]}"
    moved = web.get(image)
    assert (moved.status_code, moved.headers["location"].endswith(f"{image}/info.json")) == (303, True)
    info = web.get(f"{image}/info.json").json()
    assert (info["width"], info["height"], info["profile"], info["type"]) == (150, 100, "level2", "ImageService3")
    assert info["tiles"] == [{"width": 64, "height": 64, "scaleFactors": [1, 2]}]

    def asked(request: str) -> Matrix:
        return opened(web.get(f"{image}/{request}"))

    assert np.array_equal(asked("full/max/0/default.png"), array)
    assert np.array_equal(asked("20,10,64,64/max/0/color.png"), array[10:74, 20:84])
    assert np.array_equal(asked("square/max/0/default.png"), array[:, 25:125])
    assert np.array_equal(asked("pct:10,20,50,50/max/0/default.png"), array[20:70, 15:90])
    part = array[10:50, 20:80]
    for turn in (90, 180, 270):
        assert np.array_equal(asked(f"20,10,60,40/max/{turn}/default.png"), np.rot90(part, -turn // 90))
    assert np.array_equal(asked("20,10,60,40/max/!90/default.png"), np.rot90(np.fliplr(part), -1))
    assert np.array_equal(asked("20,10,60,40/max/0/gray.png"), np.asarray(Image.fromarray(part).convert("L")))
    assert set(np.unique(asked("full/max/0/bitonal.png"))) == {0, 255}
    sizes = {"75,": (50, 75), ",50": (50, 75), "60,20": (20, 60), "!60,60": (40, 60), "pct:50": (50, 75)}
    sizes |= {"^300,": (200, 300), "^!300,300": (200, 300), "!300,300": (100, 150)}
    for size, shape in sizes.items():
        assert asked(f"full/{size}/0/default.jpg").shape[:2] == shape
    for bad in ("full/300,/0/default.jpg", "full/max/45/default.jpg", "full/max/0/default.tif", "full/max/0/x.jpg",
                "200,0,5,5/max/0/default.jpg", "0,0,0,5/max/0/default.jpg", "full/,/0/default.jpg",
                "full/0,/0/default.jpg", "a,b,c,d/max/0/default.jpg", "full/^99999,/0/default.jpg"):  # fmt: skip
        refused(web.get(f"{image}/{bad}"), 400, "bad-query")


def test_the_addresses_of_orthanc(web: httpx.Client) -> None:
    """IIIF and the viewer where Orthanc's plug-in has them; the manifest leads to the pictures."""
    array = matrix(*SIZE)
    dataset = full(array, ContainerIdentifier="S24-1 A1")
    stored(web, dataset)
    series = orthanc_ids(dataset.PatientID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID, "1").series
    image = f"/wsi/iiif/tiles/{series}"
    assert web.get(image).headers["location"].endswith(f"{image}/info.json")
    info = web.get(f"{image}/info.json").json()
    assert info["id"] == f"{str(web.base_url).rstrip('/')}{image}"
    assert info | {"id": ""} == web.get(f"/wsi/iiif/{dataset.SeriesInstanceUID}/info.json").json() | {"id": ""}
    assert np.array_equal(opened(web.get(f"{image}/20,10,64,64/max/0/color.png")), array[10:74, 20:84])
    bad = web.get(f"{image}/full/max/45/default.jpg")
    assert (bad.status_code, bad.json()["OrthancStatus"]) == (400, 3)

    place = f"/wsi/iiif/series/{series}/manifest.json"
    answer = web.get(place)
    manifest = answer.json()
    assert answer.headers["content-type"].startswith("application/ld+json")
    assert (manifest["type"], manifest["label"]) == ("Manifest", {"none": ["S24-1 A1"]})
    assert manifest["id"].endswith(place)
    [canvas] = manifest["items"]
    assert (canvas["width"], canvas["height"]) == (150, 100)
    [page] = canvas["items"]
    [annotation] = page["items"]
    assert (annotation["target"], annotation["motivation"]) == (canvas["id"], "painting")
    assert annotation["body"]["service"] == [{"id": info["id"], "type": "ImageService3", "profile": "level2"}]
    assert opened(web.get(annotation["body"]["id"])).shape == array.shape
    assert opened(web.get(manifest["thumbnail"][0]["id"])).shape == array.shape
    assert web.get(place, headers={"if-none-match": answer.headers["etag"]}).status_code == 304

    moved = web.get("/wsi/app/viewer.html", params={"series": series})
    assert moved.status_code == 303
    assert str(moved.next_request.url).endswith(f"/wsi/viewer/?series={dataset.SeriesInstanceUID}")
    unknown = "0" * 8 + "-00000000" * 4
    for missing in (f"/wsi/iiif/tiles/{unknown}/info.json", f"/wsi/iiif/series/{unknown}/manifest.json",
                    f"/wsi/app/viewer.html?series={unknown}"):  # fmt: skip
        assert web.get(missing).status_code == 404
    assert web.get("/wsi/app/viewer.html").status_code == 400


@pytest.mark.full
@pytest.mark.timeout(400)
def test_a_slide_of_180_000_frames(tmp_path: Path) -> None:
    """Stored in seconds and within 1 GiB, opened at once; a tile costs the same wherever it is."""
    data = sparse_slide(180_000)
    with running_server(tmp_path, workers=1) as server, httpx.Client(base_url=server.url, timeout=200) as web:
        began = time.perf_counter()
        assert web.post("/instances", content=data).status_code == 200
        assert time.perf_counter() - began < 60
        peaks = [
            int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())[0])
            for process in psutil.Process(server.process.pid).children(recursive=True)
            if "postgres" not in process.name()
        ]
        assert max(peaks) < 1 << 20
        began = time.perf_counter()
        described = web.get(f"/wsi/slides/{SERIES}").json()
        assert time.perf_counter() - began < 1
        assert described["levels"][0]["columns"] * described["levels"][0]["rows"] == 180_000
        version = described["version"]
        for x, y in ((0, 0), (399, 449), (200, 200)):  # four bytes of JPEG, which is no picture
            refused(web.get(f"/wsi/slides/{SERIES}/tiles/0/{x}/{y}?v={version}"), 422, "bad-pixels")
