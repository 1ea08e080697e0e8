"""C-GET without a network, on a real archive: what is sent in which syntax, how it is counted, what fails."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian
from pynetdicom.dimse_primitives import C_GET, DIMSEPrimitive

from dicomweb.errors import BadQuery, IdentityMismatch
from dimse_bridge import retrieve as module
from dimse_bridge.service import Context
from storage.archive import Archive
from tests.dimse.in_memory import Exchange, exchange, stored
from tests.dimse.peers import dataset_bytes
from tests.dimse.test_find_service import identifier
from tests.dimse.wire import CT, EXPLICIT_LE, IMPLICIT_LE
from tests.files import ct, dataset, encoded, new_uid

STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
PATIENT_ROOT_GET = "1.2.840.10008.5.1.4.1.2.1.3"
JPEG_LS = "1.2.840.10008.1.2.4.80"
RLE = "1.2.840.10008.1.2.5"
JPEG = Path(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm")).read_bytes()
SR = "1.2.840.10008.5.1.4.1.1.88.11"


class Peer:
    """Takes what is sent; `statuses` by the order in which instances come."""

    def __init__(self, statuses: Mapping[int, int] | None = None) -> None:
        self.statuses = statuses or {}
        self.received: list[tuple[str, str, bytes]] = []

    async def __call__(self, context: Context, request: DIMSEPrimitive, data: bytes) -> DIMSEPrimitive:
        request.Status = self.statuses.get(len(self.received), 0)
        self.received.append((request.AffectedSOPInstanceUID, context.transfer_syntax, data))
        return request

    def dataset(self, index: int = 0) -> Dataset:
        """What came, as pydicom reads it."""
        _, syntax, data = self.received[index]
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = syntax, CT, "1.2"
        out = pydicom.filebase.DicomBytesIO()
        pydicom.filewriter.write_file_meta_info(out, meta)
        return pydicom.dcmread(io.BytesIO(bytes(128) + b"DICM" + out.getvalue() + data))


async def ask(
    archive: Archive,
    peer: Peer,
    level: str = "STUDY",
    *,
    model: str = STUDY_ROOT_GET,
    syntaxes: list[str] | None = None,
    sop_class: str = CT,
    cancel_after: int | None = None,
    **keys: Any,
) -> Exchange:
    contexts = {
        2 * i + 3: Context(2 * i + 3, sop_class, syntax, as_scp=False, as_scu=True)
        for i, syntax in enumerate(syntaxes or [EXPLICIT_LE])
    }
    made = exchange(archive, C_GET(), model, identifier(None, level, **keys), contexts=contexts, answer=peer)
    made.cancel_after = cancel_after
    await module.get(made)
    return made


def counts(response: tuple[int, bytes | None, dict[str, Any]]) -> tuple[Any, ...]:
    names = ("Remaining", "Completed", "Failed", "Warning")
    return tuple(response[2].get(f"NumberOf{name}Suboperations") for name in names)


async def test_a_study_comes_byte_for_byte_in_its_order(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EACH", 2)
    study, series = new_uid(), {1: new_uid(), 2: new_uid()}
    files = [
        ct(StudyInstanceUID=study, SeriesInstanceUID=series[s], SeriesNumber=s, InstanceNumber=i)
        for s in (1, 2)
        for i in (1, 2, 3)
    ]
    await stored(archive, *reversed(files))
    peer = Peer()
    asked = await ask(archive, peer, StudyInstanceUID=study)
    assert [data for _, _, data in peer.received] == [dataset_bytes(file) for file in files]
    assert [counts(each) for each in asked.responses] == [
        (5, 1, 0, 0), (3, 3, 0, 0), (1, 5, 0, 0), (None, 6, 0, 0),
    ]  # fmt: skip
    assert asked.statuses == [0xFF00] * 3 + [0]


async def test_levels_lists_and_what_is_not_there(archive: Archive) -> None:
    study, series, patient = new_uid(), [new_uid() for _ in range(3)], new_uid()[-20:]
    files = [ct(StudyInstanceUID=study, SeriesInstanceUID=s, PatientID=patient) for s in series for _ in range(2)]
    other = ct(PatientID=patient)
    await stored(archive, *files, other)
    uids = [pydicom.dcmread(io.BytesIO(file)).SOPInstanceUID for file in (*files, other)]

    async def came(level: str, **keys: Any) -> set[str]:
        peer = Peer()
        assert (await ask(archive, peer, level, model=PATIENT_ROOT_GET, **keys)).statuses[-1] == 0
        return {uid for uid, _, _ in peer.received}

    assert await came("PATIENT", PatientID=patient) == set(uids)
    assert await came("STUDY", PatientID=patient, StudyInstanceUID=study) == set(uids[:6])
    assert await came("SERIES", StudyInstanceUID=study, SeriesInstanceUID=series[:2]) == set(uids[:4])
    assert await came("SERIES", SeriesInstanceUID=series[2]) == set(uids[4:6])
    assert await came("IMAGE", SOPInstanceUID=[uids[0], uids[5], new_uid()]) == {uids[0], uids[5]}
    assert await came("IMAGE", SOPInstanceUID=uids, SeriesInstanceUID=series[0]) == set(uids[:2])
    assert await came("STUDY", StudyInstanceUID=new_uid()) == set()
    # By accession number, where no study is named: all that have it.
    numbers = [f"ACC{uid[-10:]}" for uid in (new_uid(), new_uid())]
    ordered = [ct(AccessionNumber=number, PatientID=patient) for number in (*numbers, numbers[0])]
    await stored(archive, *ordered)
    first, second, third = (pydicom.dcmread(io.BytesIO(file)) for file in ordered)
    assert await came("STUDY", AccessionNumber=numbers[0]) == {first.SOPInstanceUID, third.SOPInstanceUID}
    assert await came("STUDY", AccessionNumber=numbers[1], PatientID=patient) == {second.SOPInstanceUID}
    assert await came("STUDY", AccessionNumber=numbers[1], PatientID="another") == set()
    assert len(await came("STUDY", AccessionNumber=numbers)) == 3
    assert await came("STUDY", AccessionNumber=f"{numbers[0][:-2]}*") == set()
    named = {"StudyInstanceUID": second.StudyInstanceUID, "AccessionNumber": numbers[0]}
    assert await came("STUDY", **named) == {second.SOPInstanceUID}
    assert await came("STUDY", PatientID="another", StudyInstanceUID=study) == set()


@pytest.mark.parametrize(
    ("level", "keys", "error"),
    [
        ("STUDY", {}, IdentityMismatch),
        ("STUDY", {"PatientID": "X"}, IdentityMismatch),
        ("STUDY", {"AccessionNumber": " "}, IdentityMismatch),
        ("SERIES", {"AccessionNumber": "X"}, IdentityMismatch),
        ("IMAGE", {"StudyInstanceUID": "1.2"}, IdentityMismatch),
        ("PATIENT", {"PatientID": "X"}, IdentityMismatch),
        ("STUDY", {"StudyInstanceUID": "1.2.*"}, BadQuery),
    ],
)
async def test_what_does_not_name_what_it_wants(
    archive: Archive, level: str, keys: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await ask(archive, Peer(), level, **keys)


async def test_failures_and_warnings_are_counted_and_named(archive: Archive) -> None:
    study = new_uid()
    await stored(archive, *(ct(StudyInstanceUID=study, InstanceNumber=i) for i in range(4)))
    peer = Peer({1: 0xA700, 2: 0xB000})
    asked = await ask(archive, peer, StudyInstanceUID=study)
    assert asked.statuses[-1] == 0xB000
    assert counts(asked.responses[-1]) == (None, 2, 1, 1)
    assert asked.data_sets()[-1].FailedSOPInstanceUIDList == peer.received[1][0]
    asked = await ask(archive, Peer(dict.fromkeys(range(4), 0xC000)), StudyInstanceUID=study)
    assert asked.statuses[-1] == 0xA702
    assert len(asked.data_sets()[-1].FailedSOPInstanceUIDList) == 4


async def test_a_class_without_context_fails_and_the_others_come(archive: Archive) -> None:
    study = new_uid()
    await stored(archive, ct(StudyInstanceUID=study), ct(StudyInstanceUID=study, SOPClassUID=SR))
    peer = Peer()
    asked = await ask(archive, peer, StudyInstanceUID=study)
    assert asked.statuses[-1] == 0xB000
    assert counts(asked.responses[-1]) == (None, 1, 1, 0)
    assert len(peer.received) == 1


async def test_cancel(archive: Archive) -> None:
    study = new_uid()
    await stored(archive, *(ct(StudyInstanceUID=study) for _ in range(5)))
    peer = Peer()
    asked = await ask(archive, peer, StudyInstanceUID=study, cancel_after=1)
    assert asked.statuses == [0xFF00, 0xFE00]
    assert counts(asked.responses[-1]) == (4, 1, 0, 0)
    assert len(peer.received) == 1


async def test_an_object_that_is_gone_fails_alone(archive: Archive) -> None:
    study = new_uid()
    await stored(archive, *(ct(StudyInstanceUID=study, InstanceNumber=i) for i in range(3)))
    _, instances = await archive.retrieve.instances(exchange(archive, C_GET(), "", b"").association.access, study)
    await archive.objects.delete(instances[1].key)
    asked = await ask(archive, Peer(), StudyInstanceUID=study)
    assert asked.statuses[-1] == 0xB000
    assert asked.data_sets()[-1].FailedSOPInstanceUIDList == instances[1].sop


def with_pixels(syntax: str) -> bytes:
    pixels = np.arange(64, dtype=">u2" if syntax == ExplicitVRBigEndian else "<u2").reshape(8, 8)
    ds = dataset(Rows=8, Columns=8)
    ds.PixelData = pixels.tobytes()
    if syntax in (RLE, JPEG_LS):
        ds = pydicom.dcmread(io.BytesIO(encoded(ds)))
        ds.compress(syntax, generate_instance_uid=False)
        out = io.BytesIO()
        ds.save_as(out)
        return out.getvalue()
    return encoded(ds, syntax)


STORED = [EXPLICIT_LE, IMPLICIT_LE, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLE, JPEG_LS]


@pytest.mark.parametrize("kept", STORED)
@pytest.mark.parametrize("accepted", [EXPLICIT_LE, IMPLICIT_LE, RLE, JPEG_LS])
async def test_pixels_are_the_same_in_every_syntax(archive: Archive, kept: str, accepted: str) -> None:
    file = with_pixels(kept)
    await stored(archive, file)
    original = pydicom.dcmread(io.BytesIO(file))
    peer = Peer()
    asked = await ask(archive, peer, StudyInstanceUID=original.StudyInstanceUID, syntaxes=[accepted])
    assert asked.statuses[-1] == 0
    assert peer.received[0][1] == accepted
    assert len(peer.received[0][2]) % 2 == 0
    came = peer.dataset()
    assert came.SOPInstanceUID == original.SOPInstanceUID
    assert str(came.PatientName) == "Müller^Änne"
    assert np.array_equal(came.pixel_array, np.arange(64).reshape(8, 8))
    if accepted == kept:
        assert peer.received[0][2] == dataset_bytes(file)


@pytest.mark.parametrize("kept", [EXPLICIT_LE, IMPLICIT_LE])
@pytest.mark.parametrize("accepted", [EXPLICIT_LE, IMPLICIT_LE, JPEG_LS])
async def test_what_has_no_pixels_goes_in_every_syntax(archive: Archive, kept: str, accepted: str) -> None:
    report = dataset(SOPClassUID=SR, PixelData=None)
    await stored(archive, encoded(report, kept))
    peer = Peer()
    asked = await ask(archive, peer, StudyInstanceUID=report.StudyInstanceUID, syntaxes=[accepted], sop_class=SR)
    assert asked.statuses[-1] == 0
    assert peer.dataset().StudyInstanceUID == report.StudyInstanceUID


async def test_as_stored_comes_first_and_losses_never(archive: Archive) -> None:
    await stored(archive, JPEG)
    original = pydicom.dcmread(io.BytesIO(JPEG))
    keys = {"StudyInstanceUID": original.StudyInstanceUID, "sop_class": original.SOPClassUID}
    baseline = "1.2.840.10008.1.2.4.50"
    peer = Peer()
    await ask(archive, peer, syntaxes=[EXPLICIT_LE, baseline], **keys)
    assert peer.received[0][1:] == (baseline, dataset_bytes(JPEG))
    native = with_pixels(EXPLICIT_LE)
    await stored(archive, native)
    study = pydicom.dcmread(io.BytesIO(native)).StudyInstanceUID
    asked = await ask(archive, Peer(), syntaxes=[baseline], StudyInstanceUID=study)
    assert asked.statuses == [0xFF00, 0xA702]
