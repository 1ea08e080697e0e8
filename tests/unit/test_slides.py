"""Slides from the attributes of their instances: every organization, split and mixed; what is wrong is named."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from pydicom import Dataset

from dicomweb.errors import CorruptObject
from dicomweb.part10 import scan
from dicomweb.pixels.image import ImagePixel
from dicomweb.slides.background import absent_colour
from dicomweb.slides.places import Places, read_places, split_metadata
from dicomweb.slides.pyramid import Slide, assemble
from dicomweb.slides.tiled import NotTiled, Problem, Tiled, is_tiled
from dicomweb.slides.tilemap import FrameRef
from tests.wsi.variants import Place, Series, file, instance, matrix, tiles_of

BLANK = np.zeros((8, 8, 3), np.uint8)
SERIES = Series()


def tiled(ds: Dataset) -> Tiled:
    """The description that ingest makes of an instance."""
    found = scan(file(ds))
    text = found.metadata.inflate()
    header, where = split_metadata(text)
    dataset = orjson.loads(header)
    places = read_places(text, where, ds.NumberOfFrames) if where[1] else None
    if places is not None:
        places = Places.from_bytes(places.to_bytes())
    assert found.frames is not None
    return Tiled.of(dataset, places, per_frame=where[1] > 0, frames=found.frames.count)


def full(size: tuple[int, int], frames: int, **attributes: Any) -> Dataset:
    return instance(SERIES, [BLANK] * frames, size, **attributes)


def sparse(size: tuple[int, int], places: Sequence[Place], **attributes: Any) -> Dataset:
    return instance(SERIES, [BLANK] * len(places), size, places=places, **attributes)


def slide(*datasets: Dataset) -> Slide:
    return assemble([tiled(ds) for ds in datasets])


def names(found: Slide) -> list[str]:
    return [problem.name for problem in found.problems]


def test_levels_are_ordered_by_their_size_whatever_they_say() -> None:
    small = full((16, 12), 4, ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    base = full((32, 24), 12, ImageType=["DERIVED", "PRIMARY", "VOLUME", "NONE"])
    found = slide(small, base)
    assert [(level.width, level.height, level.across, level.down) for level in found.levels] == [
        (32, 24, 4, 3),
        (16, 12, 2, 2),
    ]
    assert found.problems == ()
    assert found.levels[0].spacing == (0.0005, 0.00025)
    at = found.base.map_of("1", 0.0)
    assert at is not None
    assert [at.at(x, y) for y, x in itertools.product(range(3), range(4))] == [FrameRef(1, i) for i in range(12)]
    assert at.at(0, 3) is None


def test_order_of_paths_and_planes() -> None:
    """Columns, rows, focal planes, then optical paths in the order of their sequence (PS3.3 C.8.12.4.1.1)."""
    found = slide(full((16, 8), 2 * 3 * 2, paths=("b", "a"), planes=3))
    assert [path.identifier for path in found.paths] == ["b", "a"]
    assert found.depths == (0.0, 2.0, 4.0)
    assert found.focal == 1
    seen = []
    for path, depth in itertools.product("ba", found.depths):
        tile_map = found.base.map_of(path, depth)
        assert tile_map is not None
        seen += [tile_map.at(0, 0), tile_map.at(1, 0)]
    assert seen == [FrameRef(0, i) for i in range(12)]


def test_one_instance_for_each_path_and_plane() -> None:
    shared = Dataset()
    measures, place = Dataset(), Dataset()
    measures.PixelSpacing = [0.0005, 0.0005]
    shared.PixelMeasuresSequence = [measures]
    instances = []
    for path, depth in itertools.product("ab", (1.5, -1.5)):
        ds = full((16, 8), 2, paths=(path,))
        group, place = Dataset(), Dataset()
        place.XOffsetInSlideCoordinateSystem = place.YOffsetInSlideCoordinateSystem = 5.0
        place.ZOffsetInSlideCoordinateSystem = depth
        place.ColumnPositionInTotalImagePixelMatrix = place.RowPositionInTotalImagePixelMatrix = 1
        group.PixelMeasuresSequence, group.PlanePositionSlideSequence = [measures], [place]
        ds.SharedFunctionalGroupsSequence = [group]
        instances.append(ds)
    found = slide(*instances)
    assert found.depths == (-1.5, 1.5)
    order = list(itertools.product("ab", (1.5, -1.5)))
    for index, key in enumerate(order):
        tile_map = found.base.map_of(*key)
        assert tile_map is not None
        assert tile_map.at(1, 0) == FrameRef(index, 1)
    nearest = found.base.map_of("a", 1.0)
    assert nearest is not None
    assert nearest.at(0, 0) == FrameRef(0, 0)
    assert found.base.map_of("c", 1.5) is None


@pytest.mark.parametrize("offsets", [True, False])
def test_concatenation(offsets: bool) -> None:
    parts = []
    for number, (first, count) in enumerate([(0, 5), (5, 4), (9, 3)], 1):
        extra: dict[str, Any] = {"ConcatenationFrameOffsetNumber": first} if offsets else {}
        parts.append(
            full(
                (32, 24), count, ConcatenationUID="1.2.3", InConcatenationNumber=number, InstanceNumber=number, **extra
            )
        )
    found = slide(parts[2], parts[0], parts[1])
    at = found.base.map_of("1", 0.0)
    assert at is not None
    whole = [at.at(x, y) for y, x in itertools.product(range(3), range(4))]
    assert whole == [FrameRef(1, i) for i in range(5)] + [FrameRef(2, i) for i in range(4)] + [
        FrameRef(0, i) for i in range(3)
    ]
    assert found.problems == ()
    missing = slide(parts[0], parts[2])
    assert names(missing) == ["concatenation-incomplete"]


def test_sparse_frames_in_any_order_with_holes() -> None:
    places = [Place(24, 16), Place(0, 0), Place(8, 0, "2"), Place(8, 0), Place(0, 16, "1", 2.5)]
    found = slide(sparse((32, 24), places, paths=("1", "2")))
    at = found.base.map_of("1", 0.0)
    assert at is not None
    assert at.aligned
    assert (at.at(3, 2), at.at(0, 0), at.at(1, 0), at.at(2, 0)) == (
        FrameRef(0, 0),
        FrameRef(0, 1),
        FrameRef(0, 3),
        None,
    )
    other, deep = found.base.map_of("2", 0.0), found.base.map_of("1", 2.5)
    assert other is not None
    assert deep is not None
    assert (other.at(1, 0), other.at(0, 0), deep.at(0, 2)) == (FrameRef(0, 2), None, FrameRef(0, 4))
    assert [(ref.frame, left, top) for ref, left, top in at.within(7, 0, 32, 24)] == [(1, 0, 0), (3, 8, 0), (0, 24, 16)]


def test_sparse_concatenation() -> None:
    parts = [
        sparse((32, 24), [Place(8 * i, 8 * number)], ConcatenationUID="1.2.3", InConcatenationNumber=number + 1)
        for number, i in enumerate((3, 1, 2))
    ]
    at = slide(*parts).base.map_of("1", 0.0)
    assert at is not None
    assert (at.at(3, 0), at.at(1, 1), at.at(2, 2)) == (FrameRef(0, 0), FrameRef(1, 0), FrameRef(2, 0))


def test_frames_that_lie_anywhere() -> None:
    places = [Place(0, 0), Place(5, 3), Place(20, 10)]
    at = slide(sparse((32, 24), places)).base.map_of("1", 0.0)
    assert at is not None
    assert not at.aligned
    assert at.at(0, 0) is None
    assert [ref.frame for ref, _, _ in at.within(4, 4, 8, 8)] == [0, 1]
    assert [(ref.frame, left, top) for ref, left, top in at.within(13, 11, 32, 24)] == [(2, 20, 10)]
    assert at.within(8, 0, 13, 3) == []


def test_an_instance_of_its_own_way() -> None:
    """Without a word about the organization, per-frame groups make the difference."""
    named = sparse((32, 24), [Place(8, 8)])
    del named.DimensionOrganizationType
    at = slide(named).base.map_of("1", 0.0)
    assert at is not None
    assert at.at(1, 1) == FrameRef(0, 0)
    plain = full((16, 8), 2)
    del plain.DimensionOrganizationType
    at = slide(plain).base.map_of("1", 0.0)
    assert at is not None
    assert at.at(1, 0) == FrameRef(0, 1)


def test_paths_without_frames_are_not_offered() -> None:
    described = sparse((32, 24), [Place(8, 8, "b")], paths=("a", "b"))
    assert [path.identifier for path in slide(described).paths] == ["b"]
    nameless = sparse((32, 24), [Place(8, 8, "b")])
    del nameless.OpticalPathSequence
    assert [path.identifier for path in slide(nameless).paths] == ["b"]


def test_label_overview_and_thumbnail() -> None:
    base = full((32, 24), 12)
    label = full((8, 8), 1, ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"], FrameOfReferenceUID="1.2.9")
    overview = full((8, 8), 1, ImageType=["ORIGINAL", "PRIMARY", "OVERVIEW", "NONE"])
    apex = full((8, 6), 1, ImageType=["DERIVED", "PRIMARY", "THUMBNAIL", "RESAMPLED"])
    found = slide(label, overview, apex, base)
    assert (found.label, found.overview, found.thumbnail) == (0, 1, 2)
    assert [(level.width, level.height) for level in found.levels] == [(32, 24), (8, 6)]
    twin = full((32, 24), 12, ImageType=["DERIVED", "PRIMARY", "THUMBNAIL", "RESAMPLED"])
    assert len(slide(twin, base).levels) == 1
    assert slide(label).levels == ()


def test_levels_of_another_slide_are_left_out() -> None:
    base, other = full((32, 24), 12), full((16, 12), 4, ContainerIdentifier="C-9")
    wide = full((16, 4), 2)
    found = slide(other, base, wide)
    assert [(level.width, level.height) for level in found.levels] == [(32, 24)]
    assert found.problems == (
        Problem("other-slide", "the instance shows another slide than the base level", other.SOPInstanceUID),
        Problem("other-shape", "the matrix has other proportions than the base level", wide.SOPInstanceUID),
    )


def test_what_is_wrong_is_named_and_the_rest_is_shown() -> None:
    base = full((32, 24), 12)
    assert names(slide(full((32, 24), 10))) == ["frames-missing"]
    assert names(slide(base, full((32, 24), 12))) == ["duplicate"]
    resampled = full((32, 24), 12, ImageType=["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"])
    assert names(slide(resampled)) == ["no-base-level"]
    big = instance(SERIES, [np.zeros((16, 16, 3), np.uint8)] * 4, (32, 24))
    found = slide(base, big)
    assert names(found) == ["other-tiles"]
    assert found.base.columns == 8
    gray = instance(SERIES, [BLANK[..., 0]] * 12, (32, 24), paths=("2",))
    assert names(slide(base, gray)) == ["other-tiles"]
    outside = sparse((32, 24), [Place(-8, 0), Place(0, 0), Place(32, 0), Place(0, 2**31 - 2)])
    found = slide(outside)
    assert names(found) == ["outside"]
    assert "3 frames" in found.problems[0].detail
    at = found.base.map_of("1", 0.0)
    assert at is not None
    assert at.at(0, 0) == FrameRef(0, 1)


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"TotalPixelMatrixColumns": 0}, "bad-matrix"),
        ({"TotalPixelMatrixRows": 2**32 - 1}, "bad-matrix"),
        ({"Rows": 0}, "bad-image"),
        ({"DimensionOrganizationType": "TILED_SPARSE"}, "no-positions"),
    ],
)
def test_instances_that_are_no_part_of_a_slide(attributes: dict[str, Any], name: str) -> None:
    ds = full((32, 24), 12, **attributes)
    with pytest.raises(NotTiled) as caught:
        tiled(ds)
    assert caught.value.name == name


def test_a_vast_matrix_costs_what_its_frames_cost() -> None:
    side = 2**31 - 1
    ds = sparse((side, side), [Place(0, 0), Place(side - 7, side - 7)])
    found = slide(ds)
    at = found.base.map_of("1", 0.0)
    assert at is not None
    assert at.at(found.base.across - 1, found.base.down - 1) == FrameRef(0, 1)
    assert found.weight < 100_000
    wide = slide(full((side, side), 3))
    assert names(wide) == ["frames-missing"]
    at = wide.base.map_of("1", 0.0)
    assert at is not None
    assert (at.at(2, 0), at.at(3, 0)) == (FrameRef(0, 2), None)


def test_paths_and_planes_beyond_the_frames_cost_nothing() -> None:
    ds = full((16, 8), 2, paths=[str(i) for i in range(500)], TotalPixelMatrixFocalPlanes=2**31 - 1)
    assert len(slide(ds).base.maps) == 1
    one = tiled(sparse((16, 8), [Place(0, 0)]))
    count, zeros = 5000, np.zeros(5000, np.int32)
    many = Places(zeros, zeros, zeros.astype(np.uint16), np.arange(count, dtype=np.uint16), (), tuple(range(count)))
    assert names(assemble([replace(one, places=many, frames=count)])) == ["too-many-planes"]


def test_places_are_read_as_pydicom_reads_them() -> None:
    rng = np.random.default_rng(5)
    numbers = rng.integers(-50, 5000, (300, 3))
    places = [Place(int(x), int(y), f'"{n % 3}', float(n) / 8) for x, y, n in numbers]
    ds = sparse((5000, 5000), places, paths=("a",))
    text = scan(file(ds)).metadata.inflate()
    header, where = split_metadata(text)
    assert set(orjson.loads(header)) == set(orjson.loads(text)) - {"52009230"}
    found = read_places(text, where, 300)
    assert found is not None
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        place, path = group.PlanePositionSlideSequence[0], group.OpticalPathIdentificationSequence[0]
        assert found.left[index] == place.ColumnPositionInTotalImagePixelMatrix - 1
        assert found.top[index] == place.RowPositionInTotalImagePixelMatrix - 1
        assert found.depths[found.depth[index]] == float(place.ZOffsetInSlideCoordinateSystem)
        assert found.paths[found.path[index]] == path.OpticalPathIdentifier
    assert read_places(text, where, 299) is None


def test_texts_that_look_like_places_are_none() -> None:
    trap = '"0048021E":{"vr":"SL","Value":[7]},"0048021F":{"vr":"SL","Value":[7]}'
    ds = sparse((32, 24), [Place(8, 8)])
    ds.PerFrameFunctionalGroupsSequence[0].ImageComments = trap
    ds.ImageComments = '"52009230":{"vr":"SQ"' + trap
    found = tiled(ds)
    assert found.places is not None
    assert (found.places.left.tolist(), found.places.top.tolist()) == ([8], [8])


def test_damaged_places_are_refused() -> None:
    found = tiled(sparse((32, 24), [Place(8, 8)])).places
    assert found is not None
    for data in (b"", b"x", found.to_bytes()[:-3]):
        with pytest.raises(CorruptObject):
            Places.from_bytes(data)


def test_segmentations_are_no_slides() -> None:
    assert is_tiled({"00480006": {"vr": "UL", "Value": [9]}})
    assert not is_tiled({"00480006": {"vr": "UL", "Value": [9]}, "00620002": {"vr": "SQ", "Value": [{}]}})
    assert not is_tiled({})


def test_the_colour_of_what_is_absent() -> None:
    image = ImagePixel(8, 8, 3, 8, 8, False, 0, "RGB", 1)
    gray = ImagePixel(8, 8, 1, 8, 8, False, 0, "MONOCHROME2", 1)
    assert absent_colour({}, image) == (255, 255, 255)
    assert absent_colour({}, gray) == (0, 0, 0)
    white = {"00480015": {"vr": "US", "Value": [0xFFFF, 0x8080, 0x8080]}}
    red = {
        "00480015": {"vr": "US", "Value": [round(0.5441 * 65535), round((80.8 + 128) * 257), round((69.9 + 128) * 257)]}
    }
    assert absent_colour(white, gray) == (255, 255, 255)
    assert np.abs(np.subtract(absent_colour(red, image), (255, 0, 0))).max() <= 3


def test_a_missing_step_is_filled_and_a_small_one_is_not() -> None:
    tile = np.zeros((256, 256, 3), np.uint8)

    def level(width: int, height: int) -> Dataset:
        return instance(SERIES, [tile], (width, height))

    found = slide(level(65536, 32768), level(16384, 8192), level(1024, 512))
    assert [(rung.width, rung.height, rung.level, rung.factor) for rung in found.rungs] == [
        (65536, 32768, 0, 1),
        (16384, 8192, 1, 1),
        (4096, 2048, 1, 4),
        (1024, 512, 2, 1),
    ]
    assert [(rung.width, rung.height, rung.factor) for rung in slide(level(5001, 3001)).rungs] == [
        (5001, 3001, 1),
        (1251, 751, 4),
    ]


def test_tiles_of_a_matrix() -> None:
    array = matrix(20, 12)
    assert len(tiles_of(array, 8)) == 6
    assert np.array_equal(tiles_of(array, 8)[4], array[8:12, 8:16].tolist() + [[[255] * 3] * 8] * 4)


def test_nonsense_in_any_attribute_is_refused_or_shown() -> None:
    """Whatever a value is turned into, the instance becomes a part of a slide or is named as none."""
    found = scan(file(full((32, 24), 24, paths=("a", "b"), ConcatenationUID="1.2.3", InConcatenationNumber=1)))
    text = split_metadata(found.metadata.inflate())[0]
    odd = [None, "", "x", "-1", -1, 0, 1.5, 2**40, -(2**40), 1e300, {}, {"Alphabetic": "x"}, [], [[]], "9" * 400]
    refused = 0

    def places(item: dict[str, Any]) -> list[dict[str, Any]]:
        elements = [element for element in item.values() if isinstance(element, dict)]
        inner = [one for element in elements for one in element.get("Value", []) if isinstance(one, dict)]
        return elements + [element for one in inner for element in places(one)]

    count = len(places(orjson.loads(text)))
    for index, value in itertools.product(range(count), odd):
        dataset = orjson.loads(text)
        places(dataset)[index]["Value"] = value if value == [] else [value, value]
        try:
            one = Tiled.of(dataset, None, per_frame=False, frames=24)
        except NotTiled:
            refused += 1
            continue
        made = assemble([one, one])
        assert made.levels or one.flavor != "VOLUME"
    assert 0 < refused < count * len(odd) / 2


def test_metadata_without_pixel_data_or_with_groups_elsewhere() -> None:
    group = b'"52009230":{"vr":"SQ","Value":[{"0048021E":{"vr":"SL","Value":[1]}}]}'
    first = b'"00080018":{"vr":"UI","Value":["1.2"]}'
    pixels = b'"7FE00010":{"vr":"OW","BulkDataURI":"x"}'
    nested = b'"00091001":{"vr":"SQ","Value":[{' + group + b"}]}"
    for text, header in (
        (b"{" + first + b"," + group + b"}", b"{" + first + b"}"),
        (b"{" + group + b"}", b"{}"),
        (b"{" + first + b"," + group + b"," + pixels + b"}", b"{" + first + b"," + pixels + b"}"),
        (b"{" + first + b"," + pixels + b"}", b"{" + first + b"," + pixels + b"}"),
        (b"{" + first + b"," + nested + b"," + pixels + b"}", b"{" + first + b"," + nested + b"," + pixels + b"}"),
    ):
        assert split_metadata(text)[0] == header
    assert split_metadata(b"{" + first + b"," + group + b"," + pixels + b"}")[1][1] > 0
    assert split_metadata(b"{" + nested + b"}")[1] == (0, 0)


def test_frames_within_a_rectangle() -> None:
    at = slide(full((32, 24), 10)).base.map_of("1", 0.0)
    assert at is not None
    assert [(ref.frame, left, top) for ref, left, top in at.within(8, 7, 17, 9)] == [
        (1, 8, 0),
        (2, 16, 0),
        (5, 8, 8),
        (6, 16, 8),
    ]
    assert [ref.frame for ref, _, _ in at.within(-50, 16, 500, 500)] == [8, 9]
    assert at.within(32, 0, 40, 8) == []
