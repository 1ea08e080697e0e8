"""Coarse levels that a worker makes: what they show, who makes them, and when they go."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset

from dicomweb.errors import Unavailable
from dicomweb.rendered.parameters import Window
from dicomweb.slides import levels
from storage.access import LOCAL, Access
from storage.archive import Archive, open_archive
from storage.derived import DerivedLevels
from storage.fsck import Check, Finding
from storage.jobs import Claimed
from storage.provenance import Provenance
from storage.settings import Settings
from storage.slides import StoredSlide
from storage.worker import sweep
from tests.wsi.variants import JPEG, JPEG_LS, NATIVE, Matrix, Place, Series, file, instance, jpeg, matrix, tiles_of
from wsi.blending import Component
from wsi.coarse import CoarseLevels
from wsi.manifest import manifest, orthanc_pyramid
from wsi.tasks import LEVELS, levels_content, run_levels
from wsi.tiles import DEFAULT, Channel, TileService

# What makes levels gives way to everything else on the machine.
pytestmark = pytest.mark.timeout(400)

READER = Access(LOCAL.tenant, "reader", frozenset({"dicom.read"}))
TILE = 32
SIZE = (900, 500)


@pytest.fixture(autouse=True)
def small_apex(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slides of tests are small: an image of 64 pixels needs no coarser one."""
    monkeypatch.setattr(levels, "_APEX", 64)


@pytest.fixture
def options() -> dict[str, Any]:
    return {"derive_levels_after_s": 1, "tomb_grace_s": 0, "sweep_quarantine_s": 0, "duplicates": "replace"}


@pytest.fixture
async def archive(
    settings: Callable[..., Settings], database_url: str, options: dict[str, Any], either_store: dict[str, object]
) -> AsyncIterator[Archive]:
    opened = await open_archive(settings(database_url=database_url, **options, **either_store))
    yield opened
    await opened.close()


async def store(archive: Archive, *datasets: Dataset) -> str:
    for ds in datasets:
        spool = archive.new_spool()
        await spool.write(file(ds))
        found = await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))
    return found.series


async def left_alone(archive: Archive) -> None:
    """As if the slides had changed a while ago."""
    await archive.db.fetch_sql("UPDATE derived SET due = due - interval '1 hour', lease_until = '-infinity'")


async def made(archive: Archive, series: str) -> StoredSlide:
    await left_alone(archive)
    await CoarseLevels(archive).run()
    return await archive.slides.slide(READER, series)


async def objects(archive: Archive) -> list[str]:
    return [info.key async for info in archive.objects.list("1/levels/")]


def slide(array: Matrix, series: Series | None = None, tile: int = TILE, **attributes: Any) -> Dataset:
    size = array.shape[1], array.shape[0]
    return instance(series or Series(), tiles_of(array, tile, 0), size, **attributes)


def quartered(array: Matrix, steps: int) -> Matrix:
    """Means of squares, level by level, as a reference; the edges from what there is of a square."""
    found = array.astype(float)
    for _ in range(steps):
        rows, columns = found.shape[:2]
        pad = [(0, -rows % 4), (0, -columns % 4)] + [(0, 0)] * (found.ndim - 2)
        padded = np.pad(found, pad, mode="edge")
        shape = (padded.shape[0] // 4, 4, padded.shape[1] // 4, 4, *padded.shape[2:])
        found = padded.reshape(shape).mean((1, 3))
    return found


async def level_of(archive: Archive, stored: StoredSlide, number: int, channel: Channel = DEFAULT) -> Matrix:
    """A whole level out of its tiles."""
    tiles = TileService(archive)
    rung = stored.slide.rungs[number]
    rows = []
    for y in range(rung.down):
        row = [
            np.asarray(
                Image.open(BytesIO(await tiles.body(READER, tiles.tile(stored, rung, x, y, channel, "image/png"))))
            )
            for x in range(rung.across)
        ]
        rows.append(np.concatenate(row, axis=1))
    return np.concatenate(rows)[: rung.height, : rung.width]


def near(found: Matrix, expected: Matrix, mean: float, most: float) -> None:
    assert found.shape == expected.shape
    difference = np.abs(found.astype(float) - expected)
    inner = difference[:-1, :-1]  # the last pixels may be mixed with padding that a frame has behind the matrix
    assert (inner.mean() < mean, inner.max() < most) == (True, True), (inner.mean(), inner.max())


@pytest.mark.parametrize("syntax", [JPEG, NATIVE])
async def test_levels_in_colour(archive: Archive, syntax: str) -> None:
    array = matrix(*SIZE)
    said = {"PhotometricInterpretation": "YBR_FULL_422"} if syntax == JPEG else {}
    series = await store(archive, slide(array, syntax=syntax, **said))
    before = await archive.slides.slide(READER, series)
    assert [rung.factor for rung in before.slide.rungs] == [1, 4]
    after = await made(archive, series)
    assert after.name != before.name
    found = manifest(after, "", "")["levels"]
    assert [(level["width"], level["height"]) for level in found] == [SIZE, (225, 125), (57, 32)]
    assert [(level["stored"], level["derived"]) for level in found] == [(True, False), (False, True), (False, True)]
    assert found[2]["mpp"] == pytest.approx([0.25 * 900 / 57, 0.5 * 500 / 32])
    assert orthanc_pyramid(after, "x")["Sizes"] == [[900, 500], [225, 125], [57, 32]]
    for steps in (1, 2):
        near(await level_of(archive, after, steps), quartered(array, steps), 3, 24)
    assert len(await objects(archive)) == 1


@pytest.mark.parametrize("signed", [False, True])
async def test_deep_shades_keep_their_values(archive: Archive, signed: bool) -> None:
    array = matrix(*SIZE, bits=16, colour=False)
    attributes: dict[str, Any] = {}
    if signed:
        array = (array.astype(int) - 32768).astype("<i2")
        attributes["PixelRepresentation"] = 1
    series = await store(archive, slide(array, syntax=JPEG_LS if not signed else NATIVE, **attributes))
    after = await made(archive, series)
    expected = quartered(array, 2)
    low, high = float(expected.min()) + 500, float(expected.min()) + 3000  # far finer than 8 bits of the whole
    window = Window((low + high) / 2, high - low, "LINEAR_EXACT")
    shown = await level_of(archive, after, 2, Channel(window=window))
    near(shown, np.rint(np.clip((expected - low) / (high - low), 0, 1) * 255), 0.5, 3)


async def test_paths_planes_holes_and_frames_off_the_grid(archive: Archive) -> None:
    arrays = {
        (path, z): matrix(*SIZE, seed=n, colour=False)
        for n, (path, z) in enumerate([("A", 0.0), ("A", 2.0), ("B", 0.0), ("B", 2.0)])
    }
    frames = [tile for array in arrays.values() for tile in tiles_of(array, TILE, 0)]
    series = await store(archive, instance(Series(), frames, SIZE, paths=("A", "B"), planes=2, syntax=NATIVE))
    after = await made(archive, series)
    for (path, depth), array in arrays.items():
        channel = Channel(path, after.slide.depths.index(depth))
        near(await level_of(archive, after, 2, channel), quartered(array, 2), 2, 12)
    window = Window(127.5, 255, "LINEAR_EXACT")
    blend = Channel(focal=1, blend=(Component("A", window, (255, 0, 0)), Component("B", window, (0, 255, 255))))
    red, cyan = (quartered(arrays[path, 2.0], 2) for path in ("A", "B"))
    near(await level_of(archive, after, 2, blend), np.stack([red, cyan, cyan], axis=-1), 2, 12)

    lone = matrix(40, 40, colour=False)
    sparse = instance(Series(), [lone, lone[::-1]], SIZE, places=[Place(8, 4), Place(810, 430)], syntax=NATIVE)
    series = await store(archive, sparse)
    after = await made(archive, series)
    whole = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    whole[4:44, 8:48], whole[430:470, 810:850] = lone, lone[::-1]
    near(await level_of(archive, after, 1), quartered(whole, 1), 1, 40)


async def test_tiles_that_four_does_not_divide(archive: Archive) -> None:
    array = matrix(*SIZE)
    after = await made(archive, await store(archive, slide(array, tile=50, syntax=NATIVE)))
    near(await level_of(archive, after, 2), quartered(array, 2), 3, 24)


async def test_steps_between_stored_levels(archive: Archive) -> None:
    array, series = matrix(*SIZE), Series()
    coarse = np.rint(quartered(array, 3)).astype(np.uint8)
    uid = await store(archive, slide(array, series), slide(coarse, series))
    before = await archive.slides.slide(READER, uid)
    assert [(rung.width, rung.factor) for rung in before.slide.rungs] == [(900, 1), (225, 4), (15, 1)]
    after = await made(archive, uid)
    assert [(rung.width, rung.factor) for rung in after.slide.rungs] == [(900, 1), (225, 1), (57, 1), (15, 1)]
    near(await level_of(archive, after, 2), quartered(array, 2), 3, 24)
    assert np.array_equal(await level_of(archive, after, 3), coarse)


async def test_a_slide_is_made_once_and_only_after_it_was_left_alone(archive: Archive) -> None:
    series = await store(archive, slide(matrix(*SIZE)))
    workers = [CoarseLevels(archive) for _ in range(3)]
    await asyncio.gather(*(worker.run() for worker in workers))
    assert await objects(archive) == []  # it changed a moment ago
    await left_alone(archive)
    await asyncio.gather(*(worker.run() for worker in workers))
    (first,) = await objects(archive)
    before = await archive.slides.slide(READER, series)
    await left_alone(archive)
    await workers[0].run()
    assert await objects(archive) == [first]
    assert (await archive.slides.slide(READER, series)).name == before.name


async def test_a_new_instance_brings_new_levels(archive: Archive) -> None:
    one, two = Series(), matrix(*SIZE, seed=2)
    ds = slide(matrix(*SIZE), one)
    series = await store(archive, ds)
    assert len((await made(archive, series)).slide.levels) == 3
    (first,) = await objects(archive)
    again = slide(two, one)
    again.SOPInstanceUID = ds.SOPInstanceUID
    await store(archive, again)
    meanwhile = await archive.slides.slide(READER, series)
    assert [rung.factor for rung in meanwhile.slide.rungs] == [1, 4]  # those of the old pixels do not count
    after = await made(archive, series)
    near(await level_of(archive, after, 2), quartered(two, 2), 3, 24)
    await sweep(archive)
    (second,) = await objects(archive)
    assert second != first
    assert await findings(archive) == []


@pytest.mark.parametrize("mark", [b"", b"\xff"])
async def test_levels_that_another_version_made_are_made_anew(archive: Archive, mark: bytes) -> None:
    series = await store(archive, slide(matrix(*SIZE)))
    own = await store(archive, slide(matrix(*SIZE)))
    await made(archive, series)
    before = sorted(await objects(archive))
    await archive.db.fetch_sql(
        "UPDATE derived SET fingerprint = $2::bytea || substring(fingerprint FROM 2) WHERE series_uid = $1",
        series,
        mark,
    )
    started = await open_archive(archive.settings)
    try:
        assert not any(level.derived for level in (await started.slides.slide(READER, series)).slide.levels)
        assert any(level.derived for level in (await started.slides.slide(READER, own)).slide.levels)
        await CoarseLevels(started).run()  # finds them
        after = await made(started, series)
    finally:
        await started.close()
    near(await level_of(archive, after, 2), quartered(matrix(*SIZE), 2), 3, 24)
    await sweep(archive)
    assert len(set(before) & set(await objects(archive))) == 1  # that of the other slide
    assert await findings(archive) == []


async def test_what_is_deleted_takes_its_levels_along(archive: Archive) -> None:
    ds = slide(matrix(*SIZE))
    series = await store(archive, ds)
    await made(archive, series)
    assert await findings(archive) == []
    await archive.lifecycle.delete(LOCAL, ds.StudyInstanceUID, series)
    assert await findings(archive) == []
    await sweep(archive)
    assert await objects(archive) == []
    assert await archive.db.fetch_sql("SELECT * FROM derived") == []
    assert await archive.db.fetch_sql("SELECT * FROM tomb") == []


async def test_a_slide_that_lacks_nothing_any_more_loses_its_levels(archive: Archive) -> None:
    series = Series()
    array = matrix(200, 100)
    uid = await store(archive, slide(array, series))
    assert len((await made(archive, uid)).slide.levels) == 2
    await store(archive, slide(np.rint(quartered(array, 1)).astype(np.uint8), series))
    after = await made(archive, uid)
    assert [level.derived for level in after.slide.levels] == [False, False]
    await sweep(archive)
    assert await objects(archive) == []


async def test_a_worker_that_dies_leaves_nothing_half(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    series = await store(archive, slide(matrix(*SIZE)))
    await left_alone(archive)
    original = archive.db.fetch_value

    async def cut(name: str, *values: Any) -> Any:
        if name == "derive":
            raise Unavailable("cut")
        return await original(name, *values)

    with monkeypatch.context() as patch:
        patch.setattr(archive.db, "fetch_value", cut)
        with pytest.raises(Unavailable):
            await CoarseLevels(archive).run()
    assert [rung.factor for rung in (await archive.slides.slide(READER, series)).slide.rungs] == [1, 4]
    assert await findings(archive) == []  # a tomb explains the object
    await sweep(archive)
    assert await objects(archive) == []
    # The lease of the dead one keeps others away until it ends.
    assert await DerivedLevels(archive.settings, archive.db, archive.objects).claim() is None
    assert len((await made(archive, series)).slide.levels) == 3


async def test_a_slide_that_kills_workers_is_left_alone(archive: Archive) -> None:
    series = await store(archive, slide(matrix(*SIZE)))
    due = DerivedLevels(archive.settings, archive.db, archive.objects)
    for tries in (1, 2, 3):
        await left_alone(archive)
        claimed = await due.claim()
        assert claimed is not None
        assert claimed.tries == tries
    assert len((await made(archive, series)).slide.levels) == 1
    await left_alone(archive)
    assert await due.claim() is None


async def test_only_the_one_that_holds_the_lease_publishes(archive: Archive) -> None:
    series = await store(archive, slide(matrix(*SIZE)))
    await left_alone(archive)
    slow = DerivedLevels(archive.settings, archive.db, archive.objects)
    due = await slow.claim()
    assert due is not None
    after = await made(archive, series)
    spool = archive.new_spool()
    await spool.write(b"half")
    assert not await slow.publish(due, after.fingerprint, await spool.finish(), bytes(12))
    assert (await archive.slides.slide(READER, series)).name == after.name
    await sweep(archive)
    assert len(await objects(archive)) == 1


async def test_levels_that_were_lost_are_made_anew(archive: Archive) -> None:
    series = await store(archive, slide(matrix(*SIZE)))
    await made(archive, series)
    (key,) = await objects(archive)
    await archive.objects.delete(key)
    (found,) = await findings(archive)
    assert (found.kind, found.key, found.uid) == ("missing object", key, series)
    assert "anew" in found.detail
    meanwhile = await archive.slides.slide(READER, series)
    assert not any(level.derived for level in meanwhile.slide.levels)
    after = await made(archive, series)
    near(await level_of(archive, after, 2), quartered(matrix(*SIZE), 2), 3, 24)
    await sweep(archive)
    assert await findings(archive) == []


@pytest.mark.parametrize("cut", [False, True])
async def test_who_asks_for_lost_levels_has_them_made_anew(archive: Archive, cut: bool) -> None:
    series = await store(archive, slide(matrix(*SIZE)))
    before = await made(archive, series)
    (key,) = await objects(archive)
    await archive.objects.delete(key)
    if cut:
        await archive.objects.put(key, [b"cut"], 3)
    with pytest.raises(Unavailable, match="made anew"):
        await level_of(archive, before, 2)
    meanwhile = await archive.slides.slide(READER, series, before.name)
    assert not any(level.derived for level in meanwhile.slide.levels)
    await level_of(archive, meanwhile, 1)  # of the frames, as before there were any
    after = await made(archive, series)
    near(await level_of(archive, after, 2), quartered(matrix(*SIZE), 2), 3, 24)
    await sweep(archive)
    assert await findings(archive) == []


async def test_levels_that_were_cut_are_made_anew(archive: Archive) -> None:
    series = await store(archive, slide(matrix(*SIZE)))
    await made(archive, series)
    (key,) = await objects(archive)
    await archive.objects.delete(key)
    await archive.objects.put(key, [b"cut"], 3)
    assert [found.kind for found in await findings(archive)] == ["wrong size"]
    after = await made(archive, series)
    near(await level_of(archive, after, 2), quartered(matrix(*SIZE), 2), 3, 24)
    await sweep(archive)
    assert await findings(archive) == []


async def test_levels_as_instances_take_the_place_of_derived_ones(archive: Archive, tmp_path: Path) -> None:
    series = await store(archive, slide(matrix(*SIZE)))
    before = await made(archive, series)
    job = Claimed(str(uuid4()), LOCAL.tenant, LEVELS, levels_content(series), None, 0, 1, datetime.now(UTC))
    steps: list[float] = []
    for _ in range(2):  # a job that is repeated stores nothing twice
        (tmp_path / "job").mkdir(exist_ok=True)
        done = await run_levels(archive, job, tmp_path / "job", steps.append)
    assert done.result["instances"] == 0
    assert steps == sorted(steps)
    stored = await archive.slides.slide(READER, series)
    assert [(level.width, level.derived) for level in stored.slide.levels] == [(900, False), (225, False), (57, False)]
    assert stored.name != before.name
    for number in (1, 2):
        near(await level_of(archive, stored, number), quartered(matrix(*SIZE), number), 3, 24)
    await made(archive, series)
    await sweep(archive)
    assert await objects(archive) == []
    assert await findings(archive) == []


async def test_the_check_misses_levels_that_are_gone(archive: Archive) -> None:
    series = await store(archive, slide(matrix(*SIZE)))
    await made(archive, series)
    (key,) = await objects(archive)
    await archive.objects.delete(key)
    assert [(finding.kind, finding.key, finding.uid) for finding in await findings(archive)] == [
        ("missing object", key, series)
    ]


async def test_a_broken_frame_is_empty(archive: Archive) -> None:
    array = matrix(*SIZE)
    frames = tiles_of(array, TILE, 0)
    encoded = [jpeg(frame) for frame in frames]
    encoded[0] = b"\xff\xd8 no picture \xff\xd9"
    ds = instance(Series(), frames, SIZE, syntax=JPEG, encoded=encoded, PhotometricInterpretation="YBR_FULL_422")
    after = await made(archive, await store(archive, ds))
    whole = await level_of(archive, after, 1)
    assert (np.abs(whole[:7, :7].astype(int) - 255) < 8).all()
    near(whole[:, 9:], quartered(array, 1)[:, 9:], 3, 24)


async def findings(archive: Archive) -> list[Finding]:
    found: list[Finding] = []
    await Check(archive, found.append).run(deep=True)
    return found
