"""New instances that a client asks for: what many of them take, and whose child they become."""

from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicomweb.creation.request import Creation
from dicomweb.errors import TooLarge
from storage import creation as service
from storage.access import LOCAL
from storage.archive import Archive
from storage.provenance import Provenance
from tests.files import ct, new_uid
from tests.support import Opened


def documents(count: int, size: int, **more: Any) -> Creation:
    """A request for a series of PDF documents, each of `size` bytes."""
    each = [b"%PDF-" + bytes([number % 256]) * (size - 5) for number in range(count)]
    content = [f"data:application/pdf;base64,{b64encode(data).decode()}" for data in each]
    return Creation.parse({"Tags": {}, "Content": content} | more)


def spooled(archive: Archive) -> list[Path]:
    folder = archive.objects.spool_dir
    return list(folder.iterdir()) if folder.exists() else []


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_many_take_no_more_than_one(opened: Opened) -> None:
    async with opened(spool_memory=1 << 20) as archive:
        before, found = descriptors(), []
        async for each in archive.creation.files(LOCAL, documents(200, 70_000)):
            # All in one file, and this one in memory.
            assert (len(spooled(archive)), descriptors() <= before + 2, each.path) == (1, True, None)
            assert each.data is not None
            ds = dcmread(BytesIO(each.data))
            found.append((ds.InstanceNumber, ds.EncapsulatedDocument[5], len(ds.EncapsulatedDocument)))
            each.release()
        assert found == [(number + 1, number % 256, 70_000) for number in range(200)]
        assert (spooled(archive), descriptors()) == ([], before)


async def test_nothing_stays_of_a_request_that_is_given_up(opened: Opened) -> None:
    async with opened(spool_memory=1 << 20) as archive:
        before = descriptors()
        files = archive.creation.files(LOCAL, documents(30, 70_000))
        (await anext(files)).release()
        await files.aclose()
        assert (spooled(archive), descriptors()) == ([], before)


async def test_together_they_are_bounded(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """What all have in common is in each file, but only once in the request."""
    monkeypatch.setattr(service, "_MAX_FILES", 8 << 20)
    async with opened(spool_memory=1 << 20) as archive:
        many = documents(100, 10, Tags={"SelectorUTValue": "x" * 100_000})
        with pytest.raises(TooLarge, match="together"):
            await anext(archive.creation.files(LOCAL, many))
        assert spooled(archive) == []


async def test_one_is_bounded(opened: Opened) -> None:
    async with opened(max_instance=1 << 20) as archive:
        with pytest.raises(TooLarge, match="an instance"):
            await anext(archive.creation.files(LOCAL, documents(2, 2 << 20)))


async def test_the_parent_is_the_oldest_patient_of_that_identifier(opened: Opened) -> None:
    """Orthanc's identifier of a patient is made of the PatientID, without its issuer."""
    async with opened() as archive:
        for issuer in ("first", "second"):
            spool = archive.new_spool()
            data = ct(StudyInstanceUID=new_uid(), PatientID="P", IssuerOfPatientID=issuer, PatientName=issuer)
            await spool.write(data)
            stored = await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))
        # The older row becomes the last that the index leads to.
        for same in ("''", "(SELECT orthanc_id FROM patient WHERE issuer = 'second')"):
            await archive.db.fetch_sql(f"UPDATE patient SET orthanc_id = {same} WHERE issuer = 'first'")
        request = Creation.parse({"Tags": {}, "Parent": stored.orthanc.patient})
        each = await anext(archive.creation.files(LOCAL, request))
        assert each.data is not None
        assert str(dcmread(BytesIO(each.data)).PatientName) == "first"
