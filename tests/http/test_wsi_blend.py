"""Optical paths blended in one picture, against the sum worked out by hand."""

from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset

from tests.http.bodies import problem, store
from tests.wsi.variants import NATIVE, Matrix, Place, Series, file, instance, matrix, tiles_of

SIZE = (150, 100)
TILE = 64
DEEP = [matrix(*SIZE, seed=seed, bits=16, colour=False) for seed in (1, 2, 3)]
RED, GREEN = (255, 0, 0), (0, 255, 128)


def stored(web: httpx.Client, *datasets: Dataset) -> str:
    assert store(web, *(file(ds) for ds in datasets)).status_code == 200
    return f"/wsi/slides/{datasets[0].SeriesInstanceUID}"


def fluorescence(paths: tuple[str, ...] = ("DAPI", "a:b", "Cy5"), **attributes: Any) -> Dataset:
    frames = [tile for array in DEEP[: len(paths)] for tile in tiles_of(array, TILE, 0)]
    return instance(Series(), frames, SIZE, paths=paths, syntax=NATIVE, **attributes)


def opened(answer: httpx.Response) -> Matrix:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(BytesIO(answer.content)))


def shades(array: Matrix, low: float, high: float) -> Matrix:
    return np.rint(np.clip((array.astype(float) - low) / (high - low), 0, 1) * 255).astype(np.uint32)


def added(*parts: tuple[Matrix, tuple[int, int, int]]) -> Matrix:
    total = sum(part[..., None].astype(np.uint32) * np.array(colour, np.uint32) for part, colour in parts)
    return np.minimum((np.asarray(total) + 127) // 255, 255).astype(np.uint8)


def test_a_tile_is_the_sum_of_its_channels(web: httpx.Client) -> None:
    slide = stored(web, fluorescence())
    wanted = ["DAPI:1000:40000:ff0000", "a:b:-5:65535.5:00ff80"]
    for x, y in ((0, 0), (1, 1), (2, 1)):
        tiles = [tiles_of(array, TILE, 0)[3 * y + x] for array in DEEP]
        expected = added((shades(tiles[0], 1000, 40000), RED), (shades(tiles[1], -5, 65535.5), GREEN))
        shown = opened(web.get(f"{slide}/tiles/0/{x}/{y}", params={"channel": wanted, "format": "png"}))
        assert np.array_equal(shown, expected)
    jpeg = opened(web.get(f"{slide}/tiles/0/1/1", params={"channel": wanted}))
    tiles = [tiles_of(array, TILE, 0)[4] for array in DEEP]
    expected = added((shades(tiles[0], 1000, 40000), RED), (shades(tiles[1], -5, 65535.5), GREEN))
    assert np.abs(jpeg.astype(int) - expected).mean() < 6


def test_regions_and_other_dialects_blend_too(web: httpx.Client) -> None:
    slide = stored(web, fluorescence())
    wanted = {"channel": ["DAPI:0:65535:ff0000", "Cy5:0:30000:00ff80"]}
    expected = added((shades(DEEP[0], 0, 65535), RED), (shades(DEEP[2], 0, 30000), GREEN))
    region = {"region": "10,20,70,50", "format": "png"}
    assert np.array_equal(opened(web.get(f"{slide}/region", params=wanted | region)), expected[20:70, 10:80])
    whole = opened(web.get(f"{slide}/thumbnail", params=wanted | {"width": "75", "format": "png"}))
    assert np.abs(whole.astype(int) - expected.reshape(50, 2, 75, 2, 3).mean((1, 3))).mean() < 3
    series = slide.rsplit("/", 1)[1]
    iiif = web.get(f"/wsi/iiif/{series}/10,20,70,50/max/0/default.png", params=wanted)
    assert np.array_equal(opened(iiif), expected[20:70, 10:80])
    dzi = web.get(f"/wsi/deepzoom/{series}_files/8/0_0.png", params=wanted)
    assert np.array_equal(opened(dzi), expected[:64, :64])


def test_the_manifest_names_defaults_that_blend(web: httpx.Client) -> None:
    palette = Dataset()
    for name, value in (("Red", 10), ("Green", 200), ("Blue", 30)):
        setattr(palette, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 8])
        setattr(palette, f"{name}PaletteColorLookupTableData", bytes(255) + bytes([value]))
    ds = fluorescence(WindowCenter="20000", WindowWidth="10001", VOILUTFunction="LINEAR")
    ds.OpticalPathSequence[1].PaletteColorLookupTableSequence = [palette]
    slide = stored(web, ds)
    manifest = web.get(slide).json()
    assert [path["colour"] for path in manifest["optical_paths"]] == ["#0000ff", "#0ac81e", "#ff0000"]
    assert {tuple(path["window"]) for path in manifest["optical_paths"]} == {(14999.5, 24999.5)}
    url = manifest["blended"].format(level=0, x=1, y=0)
    assert "channel=a%3Ab:::" in url
    answer = web.get(f"{url}&format=png")
    assert "immutable" in answer.headers["cache-control"]
    tiles = [shades(tiles_of(array, TILE, 0)[1], 14999.5, 24999.5) for array in DEEP]
    assert np.array_equal(opened(answer), added(*zip(tiles, [(0, 0, 255), (10, 200, 30), RED], strict=True)))
    again = web.get(f"{url}&format=png", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = web.get(f"{slide}/tiles/0/1/0?channel=DAPI:0:10:ff0000&format=png")
    assert other.headers["etag"] != answer.headers["etag"]
    assert "immutable" not in other.headers["cache-control"]


def test_values_say_the_window_where_nothing_else_does(web: httpx.Client) -> None:
    ds = fluorescence(("DAPI",), SmallestImagePixelValue=100, LargestImagePixelValue=900)
    (path,) = web.get(stored(web, ds)).json()["optical_paths"]
    assert (path["colour"], path["window"]) == ("#ffffff", [100, 900])
    (path,) = web.get(stored(web, fluorescence(("DAPI",)))).json()["optical_paths"]
    assert path["window"] == [0, 65535]


def test_where_a_path_was_not_scanned_it_adds_nothing(web: httpx.Client) -> None:
    frames = [tiles_of(DEEP[0], TILE, 0)[0], tiles_of(DEEP[1], TILE, 0)[1]]
    ds = instance(
        Series(), frames, SIZE, paths=("1", "2"), places=[Place(0, 0, "1"), Place(TILE, 0, "2")], syntax=NATIVE
    )
    slide = stored(web, ds)
    wanted = {"channel": ["1:0:65535:ff0000", "2:0:65535:00ff80"], "format": "png"}
    for x, (tile, colour) in enumerate(zip(frames, (RED, GREEN), strict=True)):
        shown = opened(web.get(f"{slide}/tiles/0/{x}/0", params=wanted))
        assert np.array_equal(shown, added((shades(tile, 0, 65535), colour)))
    assert not opened(web.get(f"{slide}/tiles/0/2/1", params=wanted)).any()


@pytest.mark.parametrize(
    "query",
    [
        "channel=DAPI",
        "channel=DAPI:1:2",
        "channel=DAPI:2:1:ff0000",
        "channel=DAPI:1:1:ff0000",
        "channel=DAPI:1::ff0000",
        "channel=DAPI:nan:2:ff0000",
        "channel=DAPI:1e3:2e3:ff0000",
        "channel=DAPI:1:2:ff000",
        "channel=DAPI:1:2:fg0000",
        "channel=DAPI:::&path=DAPI",
        "channel=DAPI:::&window=1,2,linear",
        "&".join(["channel=DAPI:::"] * 9),
    ],
)
def test_a_bad_channel_is_named(web: httpx.Client, query: str) -> None:
    answer = web.get(f"/wsi/slides/1.2.3/tiles/0/0/0?{query}")
    assert (answer.status_code, problem(answer)) == (400, "bad-query")
    assert answer.json()["attribute"] == "channel"


def test_only_paths_in_shades_blend(web: httpx.Client) -> None:
    colour = stored(web, instance(Series(), tiles_of(matrix(*SIZE), TILE), SIZE))
    assert web.get(f"{colour}/tiles/0/0/0?channel=1:::").status_code == 400
    assert web.get(colour).json()["blended"] is None
    slide = stored(web, fluorescence())
    assert web.get(f"{slide}/tiles/0/0/0?channel=FITC:::").status_code == 404
