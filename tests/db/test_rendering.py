"""Who may see what of rendered and transcoded pixels, and how many statements they take."""

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO

import pytest
from pydicom import dcmread

from dicomweb.errors import BadPixels, Forbidden, NotFound
from dicomweb.rendered.encode import JPEG
from dicomweb.rendered.parameters import Rendering
from storage.access import LOCAL, Access
from storage.archive import Archive, open_archive
from storage.provenance import Provenance
from storage.settings import Settings
from tests.files import ct, new_uid

READER = Access(LOCAL.tenant, "reader", frozenset({"dicom.read"}))
JPEG_LS = "1.2.840.10008.1.2.4.80"
NO_READER = replace(READER, scopes=frozenset({"dicom.search", "dicom.metadata"}))
STRANGER = replace(LOCAL, tenant=2)


async def stored(archive: Archive, data: bytes) -> tuple[str, str, str]:
    spool = archive.new_spool()
    await spool.write(data)
    await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))
    ds = dcmread(BytesIO(data), stop_before_pixels=True)
    return ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID


async def thumbnail(archive: Archive, access: Access, study: str, series: str | None, sop: str | None) -> bytes:
    shown = await archive.rendering.representatives(access, study, series, sop)
    return await archive.rendering.thumbnail(access, shown, None, Rendering(), JPEG)


async def test_the_right_to_read_is_what_it_takes(archive: Archive) -> None:
    study, series, sop = await stored(archive, ct())
    subject = await archive.rendering.subject(READER, study, series, sop)
    assert (await archive.rendering.one(READER, subject.picture, Rendering(), JPEG)).startswith(b"\xff\xd8")
    assert (await thumbnail(archive, READER, study, None, None)).startswith(b"\xff\xd8")
    for place in ((study, None, None), (study, series, None), (study, series, sop)):
        with pytest.raises(Forbidden):
            await thumbnail(archive, NO_READER, *place)
    with pytest.raises(Forbidden):
        await archive.rendering.subject(NO_READER, study, series, sop)
    with pytest.raises(Forbidden):
        await archive.rendering.thumbnail(NO_READER, (subject.instance,), None, Rendering(), JPEG)


async def test_transcoding_takes_the_right_to_read_too(archive: Archive) -> None:
    """And gives none to the metadata, whose attributes it looks at itself."""
    place = await stored(archive, ct())
    image = await archive.pixels.image(READER, *place, (1,))
    assert (await archive.transcode.frame(image, JPEG_LS)).startswith(b"\xff\xd8\xff\xf7")
    assert JPEG_LS in await archive.pixels.targets(READER, image.instance)
    file = b"".join([chunk async for chunk in archive.transcode.instance(READER, image.instance, JPEG_LS)])
    assert dcmread(BytesIO(file)).file_meta.TransferSyntaxUID == JPEG_LS
    with pytest.raises(Forbidden):
        await archive.retrieve.metadata(READER, *place, gzip=False)
    for forbidden in (archive.pixels.image(NO_READER, *place, (1,)), archive.pixels.targets(NO_READER, image.instance)):
        with pytest.raises(Forbidden):
            await forbidden
    with pytest.raises(Forbidden):
        await anext(archive.transcode.instance(NO_READER, image.instance, JPEG_LS))


async def test_another_tenant_finds_nothing_not_even_what_is_cached(archive: Archive) -> None:
    study, series, sop = await stored(archive, ct())
    for place in ((study, None, None), (study, series, None), (study, series, sop)):
        assert await thumbnail(archive, LOCAL, *place)
        with pytest.raises(NotFound):
            await thumbnail(archive, STRANGER, *place)
    with pytest.raises(NotFound):
        await archive.rendering.subject(STRANGER, study, series, sop)
    with pytest.raises(NotFound):
        await archive.rendering.instances(STRANGER, study, None)


async def test_statements(archive: Archive) -> None:
    """The next picture of an image is one statement, the next thumbnail of a study too."""
    study, series, sop = await stored(archive, ct())

    async def picture() -> None:
        subject = await archive.rendering.subject(LOCAL, study, series, sop)
        await archive.rendering.one(LOCAL, subject.picture, Rendering(), JPEG)

    for work in (picture, lambda: thumbnail(archive, LOCAL, study, None, None)):
        await work()
        before = archive.db.statements
        await work()
        assert archive.db.statements - before == 1


async def test_a_deleted_instance_has_no_thumbnail_and_a_replaced_one_a_new_one(
    settings: Callable[..., Settings], database_url: str
) -> None:
    archive = await open_archive(settings(database_url=database_url, duplicates="replace"))
    same = {"StudyInstanceUID": new_uid(), "SeriesInstanceUID": new_uid(), "SOPInstanceUID": new_uid()}
    place = await stored(archive, ct(**same))
    first = await thumbnail(archive, LOCAL, *place)
    await stored(archive, ct(**same, PhotometricInterpretation="MONOCHROME1"))
    assert await thumbnail(archive, LOCAL, *place) != first
    await stored(archive, ct(**same, PhotometricInterpretation="PALETTE COLOR"))
    with pytest.raises(BadPixels):
        await thumbnail(archive, LOCAL, *place)
    await archive.lifecycle.delete(LOCAL, place[0])
    with pytest.raises(NotFound):
        await thumbnail(archive, LOCAL, *place)
    await archive.close()
