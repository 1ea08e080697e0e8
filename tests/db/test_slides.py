"""The index of slides: made at ingest or at the first use, true for one file, and cheap to ask."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from dicomweb.errors import BadPixels, Forbidden, NotFound, Unavailable
from storage.access import LOCAL, Access
from storage.archive import Archive, open_archive
from storage.provenance import Provenance
from storage.settings import Settings
from storage.slides import StoredSlide
from tests.files import ct
from tests.wsi.variants import JPEG, Place, Series, file, instance, matrix, tiles_of
from wsi.tiles import DEFAULT, TileService

READER = Access(LOCAL.tenant, "reader", frozenset({"dicom.read"}))
SIZE = (150, 100)


@pytest.fixture
async def archive(settings: Callable[..., Settings], database_url: str) -> AsyncIterator[Archive]:
    opened = await open_archive(settings(database_url=database_url, duplicates="replace"))
    yield opened
    await opened.close()


async def store(archive: Archive, data: bytes) -> str:
    spool = archive.new_spool()
    await spool.write(data)
    return (await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))).series


def slide(series: Series | None = None, *, syntax: str = JPEG, **attributes: Any) -> Dataset:
    said = {"PhotometricInterpretation": "YBR_FULL_422"} if syntax == JPEG else {}
    return instance(series or Series(), tiles_of(matrix(*SIZE), 64), SIZE, syntax=syntax, **said | attributes)


def sparse() -> Dataset:
    frames = tiles_of(matrix(*SIZE), 64)
    places = [Place(64 * x, 64 * y) for y, x in itertools.product(range(2), range(3))]
    return instance(Series(), frames, SIZE, places=places)


async def described(archive: Archive) -> int:
    (row,) = await archive.db.fetch_sql("SELECT count(*) FROM tiled")
    return int(row[0])


async def body(tiles: TileService, stored: StoredSlide, x: int, y: int) -> bytes:
    return await tiles.body(READER, tiles.tile(stored, stored.slide.rungs[0], x, y, DEFAULT, None))


async def test_only_tiled_images_are_described(archive: Archive) -> None:
    await store(archive, ct())
    assert await described(archive) == 0
    await store(archive, file(slide()))
    assert await described(archive) == 1


async def test_what_was_stored_before_is_described_at_the_first_use(archive: Archive) -> None:
    tiles = TileService(archive)
    for ds in (slide(), sparse()):
        series = await store(archive, file(ds))
        before = await archive.db.fetch_sql("SELECT header, places, icc_sha256, per_frame FROM tiled ORDER BY sop_uid")
        await archive.db.fetch_sql("DELETE FROM tiled")
        stored = await tiles.slide(READER, series)
        assert await body(tiles, stored, 1, 1)
        after = await archive.db.fetch_sql("SELECT header, places, icc_sha256, per_frame FROM tiled ORDER BY sop_uid")
        assert before == after
        await archive.db.fetch_sql("DELETE FROM tiled")


async def test_a_profile_is_known_by_its_digest(archive: Archive) -> None:
    import hashlib

    digests = []
    for profile in (b"p" * 500, b"q" * 5000):  # inline, and bulk data
        ds = slide()
        ds.OpticalPathSequence[0].ICCProfile = profile
        series = await store(archive, file(ds))
        digests.append((await archive.slides.slide(READER, series)).icc)
    assert digests == [(hashlib.sha256(profile).hexdigest(),) for profile in (b"p" * 500, b"q" * 5000)]


async def test_a_tile_costs_one_statement(archive: Archive) -> None:
    tiles = TileService(archive)
    series = await store(archive, file(slide()))
    stored = await tiles.slide(READER, series)
    await body(tiles, stored, 0, 0)
    before = archive.db.statements
    again = await tiles.slide(READER, series)
    assert again is stored
    await body(tiles, again, 2, 1)
    assert archive.db.statements == before + 1
    await asyncio.gather(*(tiles.slide(READER, series) for _ in range(50)))
    assert archive.db.statements <= before + 3  # who waits together asks together
    before = archive.db.statements
    for _ in range(20):
        assert await tiles.slide(READER, series, stored.name) is stored
    assert archive.db.statements == before  # a version that is named was the current one a moment ago
    await tiles.slide(READER, series, "0")
    assert archive.db.statements == before + 1


async def test_a_new_instance_is_seen_at_once(archive: Archive) -> None:
    series = Series()
    first = await store(archive, file(slide(series)))
    before = await archive.slides.slide(READER, first)
    half = instance(series, tiles_of(matrix(75, 50), 64), (75, 50))
    lookups = [asyncio.create_task(archive.slides.slide(READER, first)) for _ in range(5)]
    await store(archive, file(half))
    after = await archive.slides.slide(READER, first)
    await asyncio.gather(*lookups)
    assert (len(before.slide.levels), len(after.slide.levels)) == (1, 2)
    assert after.version > before.version


async def test_a_replaced_instance_is_described_anew(archive: Archive) -> None:
    ds = slide()
    series = await store(archive, file(ds))
    await archive.slides.slide(READER, series)
    again = instance(Series(ds.StudyInstanceUID, series), tiles_of(matrix(75, 50), 64), (75, 50))
    again.SOPInstanceUID = ds.SOPInstanceUID
    await store(archive, file(again))
    stored = await archive.slides.slide(READER, series)
    assert (stored.slide.base.width, stored.slide.base.height) == (75, 50)
    assert await described(archive) == 1


async def test_a_deleted_slide_is_gone(archive: Archive) -> None:
    ds = slide()
    series = await store(archive, file(ds))
    stored = await archive.slides.slide(READER, series)
    await archive.lifecycle.delete(LOCAL, ds.StudyInstanceUID, series)
    with pytest.raises(NotFound):
        await archive.slides.slide(READER, series)
    with pytest.raises(NotFound):
        await archive.slides.slide(READER, series, stored.name)
    assert await described(archive) == 0


async def test_who_may_not_read_sees_nothing(archive: Archive) -> None:
    tiles = TileService(archive)
    series = await store(archive, file(slide()))
    stored = await tiles.slide(READER, series)
    tile = tiles.tile(stored, stored.slide.rungs[0], 0, 0, DEFAULT, None)
    nobody = replace(READER, scopes=frozenset({"dicom.metadata"}))
    with pytest.raises(Forbidden):
        await tiles.slide(nobody, series)
    with pytest.raises(Forbidden):
        await tiles.body(nobody, tile)
    with pytest.raises(Forbidden):
        await archive.slides.series_of(nobody, "0" * 40)
    with pytest.raises(NotFound):
        await tiles.slide(replace(READER, tenant=2), series)


async def test_frames_are_found_in_every_block(archive: Archive) -> None:
    """More frames than one block of the frame table holds, and a frame that is not there."""
    rng = np.random.default_rng(1)
    frames = [np.full((2, 2, 3), rng.integers(256), np.uint8) for _ in range(5000)]
    series = await store(archive, file(instance(Series(), frames, (200, 100))))
    stored = await archive.slides.slide(READER, series)
    for frame in (0, 2047, 2048, 4999):
        located = await archive.frames.frame(READER, stored.instances[0], frame)
        assert await archive.retrieve.read_all(located) == [frames[frame].tobytes()]
    for frame in (5000, 99_999):
        with pytest.raises(NotFound):
            await archive.frames.frame(READER, stored.instances[0], frame)


async def test_a_fragmented_frame(archive: Archive) -> None:
    from pydicom.encaps import encapsulate

    from tests.wsi.variants import encode

    ds = slide()
    encoded = encode(tiles_of(matrix(*SIZE), 64), JPEG)
    ds.PixelData = encapsulate(encoded, fragments_per_frame=3)
    tiles = TileService(archive)
    stored = await tiles.slide(READER, await store(archive, file(ds)))
    for index, (y, x) in enumerate(itertools.product(range(2), range(3))):
        assert (await body(tiles, stored, x, y)).rstrip(b"\0") == encoded[index].rstrip(b"\0")


async def test_a_failed_description_fails_no_store(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise Unavailable("no")

    monkeypatch.setattr(archive.slides, "_write", broken)
    series = await store(archive, file(slide()))
    assert await described(archive) == 0
    monkeypatch.undo()
    assert (await archive.slides.slide(READER, series)).slide.base.width == 150


async def test_an_error_is_not_remembered(archive: Archive) -> None:
    ds = slide()
    ds.PixelData = ds.PixelData.replace(b"\xff\xc0", b"\xff\xc3")
    tiles = TileService(archive)
    stored = await tiles.slide(READER, await store(archive, file(ds)))
    for _ in range(2):
        with pytest.raises(BadPixels):
            await body(tiles, stored, 0, 0)
    assert not tiles._making
