"""Segmentations over slides, over TCP: every tile is what highdicom was given, in the right place and colour."""

from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from pydicom import Dataset, dcmread
from pydicom.uid import JPEGLSLossless

from tests.files import new_uid
from tests.http.bodies import problem, store
from tests.wsi.make_slide import Slide, make_slide
from tests.wsi.segmentations import LAB, concatenation, encoded, pyramid, segmentation
from tests.wsi.variants import Series, file, instance, matrix, tiles_of

WIDTH, HEIGHT = 1000, 700  # four by three tiles of 256; three levels, 1000, 500 and 250 pixels wide


@pytest.fixture
def slide(web: httpx.Client) -> Slide:
    made = make_slide(WIDTH, HEIGHT)
    assert store(web, *made.files).status_code == 200
    return made


def level(slide: Slide, number: int) -> Dataset:
    return dcmread(BytesIO(slide.files[number]))


def blobs(seed: int = 1) -> NDArray[np.uint8]:
    """(rows, columns) of 0 and 1: some rectangles, none of which is on a tile's edge."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    rng = np.random.default_rng(seed)
    for x, y in rng.integers((20, 20), (WIDTH - 200, HEIGHT - 150), (6, 2)):
        mask[y : y + 101, x : x + 153] = 1
    return mask


def listed(web: httpx.Client, slide: Slide) -> list[dict[str, Any]]:
    answer = web.get(f"/wsi/slides/{slide.series}/segmentations")
    assert answer.status_code == 200, answer.text
    assert answer.json()["left_out"] == 0
    return answer.json()["segmentations"]  # type: ignore[no-any-return]


def tile(web: httpx.Client, slide: Slide, sop: str, place: tuple[int, int, int], **query: Any) -> NDArray[np.uint8]:
    answer = web.get(f"/wsi/slides/{slide.series}/segmentations/{sop}/tiles/{'/'.join(map(str, place))}", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    image = Image.open(BytesIO(answer.content))
    assert image.mode == "RGBA"
    return np.asarray(image)


def whole(web: httpx.Client, slide: Slide, sop: str, number: int, **query: Any) -> NDArray[np.uint8]:
    """All tiles of a level."""
    width, height = slide.sizes[number]
    rows = [
        np.hstack([tile(web, slide, sop, (number, x, y), **query) for x in range(-(-width // 256))])
        for y in range(-(-height // 256))
    ]
    return np.vstack(rows)[:height, :width]


def halved(mask: NDArray[np.uint8], factor: int) -> NDArray[np.float64]:
    """The part of each larger pixel that is covered."""
    rows, columns = mask.shape[0] // factor * factor, mask.shape[1] // factor * factor
    cut = mask[:rows, :columns].astype(float)
    return cut.reshape(rows // factor, factor, columns // factor, factor).mean(axis=(1, 3))  # type: ignore[no-any-return]


@pytest.mark.parametrize("full", [False, True])
def test_binary_segments_lie_where_they_were_drawn(web: httpx.Client, slide: Slide, full: bool) -> None:
    masks = np.stack([blobs(1), blobs(2)], axis=-1)
    assert store(web, segmentation(level(slide, 0), masks, "BINARY", count=2, full=full)).status_code == 200
    [found] = listed(web, slide)
    assert (found["type"], found["label"], found["bounds"]) == ("binary", "Tumour", [0, 0, WIDTH, HEIGHT])
    assert [(each["number"], each["label"], each["type"]) for each in found["segments"]] == [
        (1, "Segment 1", "Neoplasm"), (2, "Segment 2", "Neoplasm"),
    ]  # fmt: skip
    assert found["coarsest"] == 2
    colours = [tuple(bytes.fromhex(each["colour"][1:])) for each in found["segments"]]
    # What littleCMS makes of the same CIELab value.
    lab = Image.new("LAB", (1, 1), (round(LAB[0] * 2.55), round(LAB[1]) + 128, round(LAB[2]) + 128))
    srgb = ImageCms.profileToProfile(
        lab, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert srgb is not None
    np.testing.assert_allclose(colours[0], np.asarray(srgb)[0, 0].astype(int), atol=4)

    shown = whole(web, slide, found["instance"], 0)
    covered = masks.any(axis=-1)
    np.testing.assert_array_equal(shown[..., 3], covered * 255)
    np.testing.assert_array_equal(
        shown[masks[..., 1] == 1][:, :3], np.broadcast_to(colours[1], (masks[..., 1].sum(), 3))
    )
    first = (masks[..., 0] == 1) & (masks[..., 1] == 0)
    np.testing.assert_array_equal(shown[first][:, :3], np.broadcast_to(colours[0], (first.sum(), 3)))
    # One of the two.
    alone = whole(web, slide, found["instance"], 0, segments="1")
    np.testing.assert_array_equal(alone[..., 3], masks[..., 0] * 255)
    assert not whole(web, slide, found["instance"], 0, segments="")[..., 3].any()
    # On coarser levels alpha is the part that is covered.
    for number, factor in ((1, 2), (2, 4)):
        coarse = whole(web, slide, found["instance"], number, segments="1")
        wanted = halved(masks[..., 0], factor) * 255
        np.testing.assert_allclose(coarse[: wanted.shape[0], : wanted.shape[1], 3], wanted, atol=2)


@pytest.mark.parametrize("full", [False, True])
def test_parts_of_a_concatenation_are_one(web: httpx.Client, slide: Slide, full: bool) -> None:
    masks = np.stack([blobs(1), blobs(2)], axis=-1)
    made = segmentation(level(slide, 0), masks, "BINARY", count=2, full=full)
    frames = int(dcmread(BytesIO(made)).NumberOfFrames)
    parts = concatenation(made, 5, 4, frames - 9)
    first = dcmread(BytesIO(parts[0])).SOPInstanceUID
    # The parts come in any order; what is missing is empty.
    assert store(web, parts[2], parts[0]).status_code == 200
    [found] = listed(web, slide)
    assert found["instance"] == first
    some = whole(web, slide, first, 0, segments="1", v=found["version"])[..., 3]
    missing = some != masks[..., 0] * 255
    assert missing.any()
    assert not some[missing].any()
    assert store(web, parts[1]).status_code in {200, 202}
    [found] = listed(web, slide)
    assert (found["instance"], found["coarsest"], len(found["segments"])) == (first, 2, 2)
    for number in (1, 2):
        shown = whole(web, slide, first, 0, segments=str(number), v=found["version"])[..., 3]
        np.testing.assert_array_equal(shown, masks[..., number - 1] * 255)
    coarse = whole(web, slide, first, 2)[..., 3]
    wanted = halved(masks.any(axis=-1).astype(np.uint8), 4) * 255
    assert np.abs(coarse[: wanted.shape[0], : wanted.shape[1]] - wanted).mean() < 4


@pytest.mark.parametrize("full", [False, True])
def test_a_part_that_is_no_part_of_the_others_is_left_out(web: httpx.Client, slide: Slide, full: bool) -> None:
    mask = blobs()
    made = segmentation(level(slide, 0), mask, "BINARY", full=full)
    frames = int(dcmread(BytesIO(made)).NumberOfFrames)
    parts = concatenation(made, 4, frames - 4)
    other = dcmread(BytesIO(parts[1]))
    other.SegmentationType, other.MaximumFractionalValue = "FRACTIONAL", 1
    assert store(web, parts[0], encoded(other)).status_code == 200
    [found] = listed(web, slide)
    shown = whole(web, slide, found["instance"], 0)[..., 3]
    assert shown.any()
    assert not shown[mask == 0].any()
    assert (shown != mask * 255).any()


def test_fractional_segments_are_as_opaque_as_they_say(web: httpx.Client, slide: Slide) -> None:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    share = np.clip(x / WIDTH * (y > 100), 0, 1).astype(np.float32)
    assert store(web, segmentation(level(slide, 0), share, "FRACTIONAL", max_fractional_value=200)).status_code == 200
    [found] = listed(web, slide)
    assert found["type"] == "fractional"
    shown = whole(web, slide, found["instance"], 0)
    np.testing.assert_allclose(shown[..., 3], share * 255, atol=1.3)


@pytest.mark.parametrize("syntax", [None, str(JPEGLSLossless)])
def test_label_map(web: httpx.Client, slide: Slide, syntax: str | None) -> None:
    labels = blobs(1)
    labels[blobs(2) == 1] = 2
    more = {"transfer_syntax_uid": syntax} if syntax else {}
    assert store(web, segmentation(level(slide, 0), labels, "LABELMAP", count=2, **more)).status_code == 200
    [found] = listed(web, slide)
    assert found["type"] == "labelmap"
    assert [each["number"] for each in found["segments"]] == [1, 2]
    colours = np.array([(0, 0, 0, 0), *((*bytes.fromhex(each["colour"][1:]), 255) for each in found["segments"])])
    np.testing.assert_array_equal(whole(web, slide, found["instance"], 0), colours[labels])
    np.testing.assert_array_equal(
        whole(web, slide, found["instance"], 0, segments="2"), colours[np.where(labels == 2, 2, 0)]
    )


def test_segmentation_of_a_coarser_level_or_a_part_lies_in_its_place(web: httpx.Client, slide: Slide) -> None:
    image = level(slide, 1)
    mask = blobs()[::2, ::2]
    assert store(web, segmentation(image, mask, "BINARY")).status_code == 200
    [found] = listed(web, slide)
    shown = whole(web, slide, found["instance"], 0)[..., 3]
    np.testing.assert_array_equal(shown, np.kron(mask, np.full((2, 2), 255, np.uint8)))
    # A segmentation of the part from (100, 40) on: its origin is that far down the glass, X down and Y across here.
    part = dcmread(BytesIO(segmentation(level(slide, 0), np.ones((HEIGHT, WIDTH), np.uint8), "BINARY", full=True)))
    part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = new_uid()
    part.TotalPixelMatrixColumns, part.TotalPixelMatrixRows = 256, 256
    part.NumberOfFrames, part.PixelData = 1, part.PixelData[: 256 * 256 // 8]
    origin = part.TotalPixelMatrixOriginSequence[0]
    cosines, spacing = np.array(part.ImageOrientationSlide, float).reshape(2, 3), 0.0005
    steps = 100 * spacing * cosines[0] + 40 * spacing * cosines[1]
    origin.XOffsetInSlideCoordinateSystem = round(float(origin.XOffsetInSlideCoordinateSystem + steps[0]), 6)
    origin.YOffsetInSlideCoordinateSystem = round(float(origin.YOffsetInSlideCoordinateSystem + steps[1]), 6)
    assert store(web, encoded(part)).status_code in {200, 202}
    found = next(each for each in listed(web, slide) if each["instance"] == part.SOPInstanceUID)
    np.testing.assert_allclose(found["bounds"], [100, 40, 356, 296], atol=0.01)
    wanted = np.zeros((HEIGHT, WIDTH), np.uint8)
    wanted[40:296, 100:356] = 255
    np.testing.assert_array_equal(whole(web, slide, found["instance"], 0)[..., 3], wanted)


def turned(image: Dataset, degrees: float, *, flipped: bool = False) -> Dataset:
    """The image with a matrix that is turned about its first pixel; flipped, its rows are the image's columns."""
    along, across = np.array(image.ImageOrientationSlide, float).reshape(2, 3)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rows, columns = cosine * along + sine * across, cosine * across - sine * along
    if flipped:
        rows, columns = columns, rows
        image.TotalPixelMatrixColumns, image.TotalPixelMatrixRows = HEIGHT, WIDTH
    image.ImageOrientationSlide = [f"{value:.10g}" for value in (*rows, *columns)]
    return image


def test_segmentation_whose_rows_are_columns_of_the_slide(web: httpx.Client, slide: Slide) -> None:
    mask = blobs()
    assert store(web, segmentation(turned(level(slide, 0), 0, flipped=True), mask.T, "BINARY")).status_code == 200
    [found] = listed(web, slide)
    np.testing.assert_allclose(found["bounds"], [0, 0, WIDTH, HEIGHT], atol=0.01)
    assert found["coarsest"] == 2
    np.testing.assert_array_equal(whole(web, slide, found["instance"], 0)[..., 3], mask * 255)
    for number, factor in ((1, 2), (2, 4)):
        coarse = whole(web, slide, found["instance"], number)[..., 3]
        wanted = halved(mask, factor) * 255
        np.testing.assert_allclose(coarse[: wanted.shape[0], : wanted.shape[1]], wanted, atol=2)


@pytest.mark.parametrize("degrees", [180.0, 30.0, -101.3])
def test_segmentation_that_is_turned_against_the_slide(web: httpx.Client, slide: Slide, degrees: float) -> None:
    image = turned(level(slide, 0), degrees)
    # About the middle of the slide, more or less: most of it lies there.
    along, across = np.array(image.ImageOrientationSlide, float).reshape(2, 3)
    straight = np.array(level(slide, 0).ImageOrientationSlide, float).reshape(2, 3)
    spacing = float(image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[0])
    moved = spacing * (500 * straight[0] + 350 * straight[1] - 500 * along - 350 * across)
    origin = image.TotalPixelMatrixOriginSequence[0]
    origin.XOffsetInSlideCoordinateSystem = f"{float(origin.XOffsetInSlideCoordinateSystem) + moved[0]:.12g}"
    origin.YOffsetInSlideCoordinateSystem = f"{float(origin.YOffsetInSlideCoordinateSystem) + moved[1]:.12g}"
    masks = np.stack([blobs(1), blobs(2)], axis=-1)
    assert store(web, segmentation(image, masks, "BINARY", count=2)).status_code in {200, 202}
    [found] = listed(web, slide)
    # Which pixel of the mask lies at each of the slide, from the middles of both.
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] - np.array([350, 500])[:, None, None]
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    column, row = np.rint(x * cosine + y * sine).astype(int) + 500, np.rint(y * cosine - x * sine).astype(int) + 350
    inside = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
    wanted = np.zeros((HEIGHT, WIDTH), np.uint8)
    wanted[inside] = masks.any(axis=-1)[row[inside], column[inside]] * 255
    shown = whole(web, slide, found["instance"], 0)[..., 3]
    assert wanted.any()
    assert np.mean(shown != wanted) < 0.001
    coarse = whole(web, slide, found["instance"], 2)[..., 3].astype(int)
    assert np.abs(coarse[:175, :250] - halved(wanted, 4)).mean() < 2.5  # of 255; along the edges


def test_levels_of_a_pyramid_are_one_overlay(web: httpx.Client) -> None:
    slide = make_slide(WIDTH, HEIGHT, PyramidUID=new_uid())
    assert store(web, *slide.files).status_code == 200
    mask = blobs()
    files = pyramid([level(slide, number) for number in range(3)], mask)
    assert len(files) == 3
    assert store(web, *files).status_code == 200
    [found] = listed(web, slide)
    assert found["instance"] == dcmread(BytesIO(files[0])).SOPInstanceUID
    np.testing.assert_array_equal(whole(web, slide, found["instance"], 0)[..., 3], mask * 255)
    # The coarser ones are binary: so it is them that are shown.
    coarse = whole(web, slide, found["instance"], 2)[..., 3]
    assert set(np.unique(coarse)) == {0, 255}
    assert np.mean((coarse > 127) != (halved(mask, 4)[: coarse.shape[0], : coarse.shape[1]] > 0.5)) < 0.02


def test_versions_and_errors(web: httpx.Client, slide: Slide) -> None:
    path = f"/wsi/slides/{slide.series}/segmentations"
    before = web.get(path)
    assert before.json() == {"segmentations": [], "left_out": 0}
    assert web.get(path, headers={"If-None-Match": before.headers["etag"]}).status_code == 304
    data = segmentation(level(slide, 0), blobs(), "BINARY")
    assert store(web, data).status_code == 200
    assert web.get(path, headers={"If-None-Match": before.headers["etag"]}).status_code == 200
    [found] = listed(web, slide)
    url = f"{path}/{found['instance']}/tiles"
    answer = web.get(f"{url}/0/0/0", params={"v": found["version"]})
    assert "immutable" in answer.headers["cache-control"]
    assert "no-cache" in web.get(f"{url}/0/0/0").headers["cache-control"]
    assert web.get(f"{url}/0/0/0", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert web.get(f"{url}/0/4/0").status_code == 404
    assert web.get(f"{url}/7/0/0").status_code == 404
    assert web.get(f"{path}/1.2.3/tiles/0/0/0").status_code == 404
    image = level(slide, 0).SOPInstanceUID
    assert web.get(f"{path}/{image}/tiles/0/0/0").status_code == 404
    wrong = web.get(f"{url}/0/0/0", params={"segments": "1,9"})
    assert (wrong.status_code, problem(wrong), wrong.json()["attribute"]) == (400, "bad-query", "segments")
    # Deleted: it is gone at once without a version, with one after a second.
    series = dcmread(BytesIO(data)).SeriesInstanceUID
    assert web.delete(f"/dicom-web/studies/{slide.study}/series/{series}").status_code in {200, 204}
    assert web.get(f"{url}/0/0/0").status_code == 404
    assert listed(web, slide) == []


def test_other_slides_and_frames_that_lie(web: httpx.Client, slide: Slide) -> None:
    neighbour = instance(
        Series(study=slide.study), tiles_of(matrix(100, 80), 64), (100, 80), PatientName="Slide^Sample",
        PatientID="SLIDE-1",
    )  # fmt: skip
    assert store(web, file(neighbour)).status_code in {200, 202}
    masks = np.stack([blobs(1), blobs(2)], axis=-1)
    ds = dcmread(BytesIO(segmentation(level(slide, 0), masks, "BINARY", count=2)))
    # Positions beyond the matrix and a segment that nobody described are not shown; the rest is.
    groups = ds.PerFrameFunctionalGroupsSequence
    groups[0].PlanePositionSlideSequence[0].ColumnPositionInTotalImagePixelMatrix = 2_000_000_000
    groups[1].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 77
    assert store(web, encoded(ds)).status_code in {200, 202}
    assert web.get(f"/wsi/slides/{neighbour.SeriesInstanceUID}/segmentations").json()["segmentations"] == []
    [found] = listed(web, slide)
    assert 0 < np.count_nonzero(whole(web, slide, found["instance"], 0)[..., 3]) < np.count_nonzero(masks.any(axis=-1))
