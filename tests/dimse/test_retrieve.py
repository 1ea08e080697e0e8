"""C-GET and C-MOVE over TCP, with DCMTK and pynetdicom as peers."""

import asyncio
import io
import struct
import subprocess
import time
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pynetdicom import AE, build_role, evt

from storage.access import LOCAL
from storage.archive import Archive
from storage.modalities import Modality
from storage.provenance import Provenance
from tests.dimse.conftest import Bridge
from tests.dimse.in_memory import stored
from tests.dimse.peers import dataset_bytes
from tests.dimse.programs import storescp
from tests.dimse.test_large import Peak
from tests.dimse.test_sending import only
from tests.dimse.wire import CT, EXPLICIT_LE, Wire, command, us
from tests.files import ct, dataset, encoded, new_uid

STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
SR = "1.2.840.10008.5.1.4.1.1.88.11"


def run(dcmtk: dict[str, str], *command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), env=dcmtk, capture_output=True, text=True, check=False, timeout=60)


def files_in(folder: Path) -> dict[str, Path]:
    return {pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID: path for path in folder.iterdir()}


async def study_of(archive: Archive, count: int = 3) -> tuple[str, dict[str, bytes]]:
    """A study with CT images and a report."""
    study, series = new_uid(), new_uid()
    made = [
        dataset(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=number) for number in range(1, count)
    ]
    made.append(dataset(StudyInstanceUID=study, SOPClassUID=SR, Modality="SR", PixelData=None))
    files = {ds.SOPInstanceUID: encoded(ds) for ds in made}
    await stored(archive, *files.values())
    return study, files


async def test_getscu(
    bridge: Bridge, archive: Archive, workstation: Modality, dcmtk: dict[str, str], tmp_path: Path
) -> None:
    study, files = await study_of(archive)
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}")
    call = ("-aet", workstation.aet, "-aec", "ANOR", "127.0.0.1", bridge.port)
    done = run(dcmtk, "getscu", "-v", "-S", "+B", "-od", tmp_path, *call, *keys)
    assert done.returncode == 0, done.stderr
    came = files_in(tmp_path)
    assert came.keys() == files.keys()
    for uid, path in came.items():
        assert path.read_bytes().endswith(dataset_bytes(files[uid]))


@pytest.mark.parametrize("model", [STUDY_ROOT_GET, STUDY_ROOT_MOVE])
def test_get_and_move_are_not_for_everyone(bridge: Bridge, model: str) -> None:
    with Wire(bridge.port) as peer:
        assert peer.associate(model) == 2
        field = 0x10 if model == STUDY_ROOT_GET else 0x21
        request = command(t0002=model.encode(), t0100=us(field), t0110=us(1), t0700=us(0), t0800=us(1), t0600=b"PEER")
        peer.message(1, request, b"")
        assert peer.status() == 0x0124


async def test_pynetdicom_gets_counts_and_what_fails(bridge: Bridge, archive: Archive, workstation: Modality) -> None:
    study, files = await study_of(archive, 13)
    received = []

    def store(event: evt.Event) -> int:
        received.append(event.dataset)
        return 0xA700 if event.dataset.InstanceNumber == 5 else 0

    ae = AE(ae_title=workstation.aet)
    ae.add_requested_context(STUDY_ROOT_GET)
    ae.add_requested_context(CT, [EXPLICIT_LE])
    made = ae.associate(
        "127.0.0.1",
        bridge.port,
        ae_title="ANOR",
        ext_neg=[build_role(CT, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, store)],
    )
    assert made.is_established
    identifier = pydicom.Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", study
    answers = list(made.send_c_get(identifier, STUDY_ROOT_GET))
    made.release()
    status, failed = answers[-1]
    assert status.Status == 0xB000
    assert (status.NumberOfCompletedSuboperations, status.NumberOfFailedSuboperations) == (11, 2)
    report = next(uid for uid, data in files.items() if SR.encode() in data)
    assert report in failed.FailedSOPInstanceUIDList
    assert [each.InstanceNumber for each in received] == list(range(1, 13))
    assert len(answers) >= 3
    assert all(status.Status == 0xFF00 for status, _ in answers[:-1])


async def test_movescu(
    bridge: Bridge, archive: Archive, workstation: Modality, dcmtk: dict[str, str], tmp_path: Path
) -> None:
    study, files = await study_of(archive)
    with storescp(tmp_path / "came", port=workstation.port):
        keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}")
        call = ("-aet", workstation.aet, "-aec", "ANOR", "127.0.0.1", bridge.port)
        done = run(dcmtk, "movescu", "-v", "-S", "-aem", workstation.aet, *call, *keys)
    assert done.returncode == 0, done.stderr
    came = files_in(tmp_path / "came")
    assert came.keys() == files.keys()
    for uid, path in came.items():
        assert path.read_bytes().endswith(dataset_bytes(files[uid]))


async def test_a_move_to_what_takes_compressed_objects_only(
    bridge: Bridge, archive: Archive, workstation: Modality, dcmtk: dict[str, str], tmp_path: Path
) -> None:
    study, files = await study_of(archive)
    lossless = "1.2.840.10008.1.2.4.90"
    with storescp(tmp_path / "came", *only(tmp_path, lossless), port=workstation.port):
        keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}")
        call = ("-aet", workstation.aet, "-aec", "ANOR", "127.0.0.1", bridge.port)
        done = run(dcmtk, "movescu", "-v", "-S", "-aem", workstation.aet, *call, *keys)
    assert done.returncode == 0, done.stderr
    came = {uid: pydicom.dcmread(path) for uid, path in files_in(tmp_path / "came").items()}
    assert came.keys() == files.keys()
    for uid, found in came.items():
        original = pydicom.dcmread(io.BytesIO(files[uid]))
        assert found.file_meta.TransferSyntaxUID == lossless
        if "PixelData" in original:
            assert (found.pixel_array == original.pixel_array).all()


async def move(bridge: Bridge, workstation: Modality, destination: str, study: str) -> list[pydicom.Dataset]:
    ae = AE(ae_title=workstation.aet)
    ae.add_requested_context(STUDY_ROOT_MOVE)
    made = ae.associate("127.0.0.1", bridge.port, ae_title="ANOR")
    assert made.is_established
    identifier = pydicom.Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", study
    answers = []
    for status, found in made.send_c_move(identifier, destination, STUDY_ROOT_MOVE):
        status.failed = found
        answers.append(status)
    made.release()
    return answers


async def test_where_to_move_is_declared(bridge: Bridge, archive: Archive, workstation: Modality) -> None:
    study, _ = await study_of(archive)
    answers = await move(bridge, workstation, "NOBODY", study)
    assert [answer.Status for answer in answers] == [0xA801]


async def test_a_destination_that_does_not_answer(bridge: Bridge, archive: Archive, workstation: Modality) -> None:
    study, files = await study_of(archive)
    answers = await move(bridge, workstation, workstation.aet, study)
    final = answers[-1]
    assert final.Status == 0xA702
    assert final.NumberOfFailedSuboperations == 3
    assert set(final.failed.FailedSOPInstanceUIDList) == files.keys()
    assert final.ErrorComment


async def test_the_destination_learns_who_asked(bridge: Bridge, archive: Archive, workstation: Modality) -> None:
    study, _ = await study_of(archive)
    asked = []

    def store(event: evt.Event) -> int:
        request = event.request
        asked.append((request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID))
        return 0xB000 if len(asked) == 1 else 0

    ae = AE(ae_title=workstation.aet)
    ae.supported_contexts = []
    for sop_class in (CT, SR):
        ae.add_supported_context(sop_class, "1.2.840.10008.1.2")
    server = ae.start_server(("127.0.0.1", workstation.port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        answers = await move(bridge, workstation, workstation.aet, study)
    finally:
        server.shutdown()
    assert answers[-1].Status == 0xB000
    assert (answers[-1].NumberOfCompletedSuboperations, answers[-1].NumberOfWarningSuboperations) == (2, 1)
    assert [str(aet).strip() for aet, _ in asked] == [workstation.aet] * 3
    assert {number for _, number in asked} == {1}


async def test_nothing_to_move(bridge: Bridge, workstation: Modality) -> None:
    answers = await move(bridge, workstation, workstation.aet, new_uid())
    assert [answer.Status for answer in answers] == [0]
    assert answers[-1].NumberOfCompletedSuboperations == 0


async def test_a_cancelled_get_leaves_an_association_that_works(
    bridge: Bridge, archive: Archive, workstation: Modality
) -> None:
    study = new_uid()
    await stored(archive, *(ct(StudyInstanceUID=study) for _ in range(40)))
    received: list[int] = []
    ae = AE(ae_title=workstation.aet)
    ae.add_requested_context(STUDY_ROOT_GET)
    ae.add_requested_context(CT, [EXPLICIT_LE])

    def store(event: evt.Event) -> int:
        received.append(1)
        if len(received) == 3:
            event.assoc.send_c_cancel(7, query_model=STUDY_ROOT_GET)
        time.sleep(0.02)
        return 0

    made = ae.associate(
        "127.0.0.1",
        bridge.port,
        ae_title="ANOR",
        ext_neg=[build_role(CT, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, store)],
    )
    identifier = pydicom.Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", study
    statuses = [status for status, _ in made.send_c_get(identifier, STUDY_ROOT_GET, msg_id=7)]
    assert statuses[-1].Status == 0xFE00
    assert 3 <= len(received) < 10
    assert statuses[-1].NumberOfRemainingSuboperations == 40 - len(received)
    received.clear()
    identifier.StudyInstanceUID = (await study_of(archive, 2))[0]
    assert [status.Status for status, _ in made.send_c_get(identifier, STUDY_ROOT_GET)][-1] == 0xB000  # no SR
    made.release()


async def test_a_cancelled_move_stops_and_a_slow_destination_is_reported_on(
    bridge: Bridge, archive: Archive, workstation: Modality
) -> None:
    study = new_uid()
    await stored(archive, *(ct(StudyInstanceUID=study) for _ in range(8)))
    received: list[int] = []

    def store(_event: evt.Event) -> int:
        received.append(1)
        time.sleep(2.5)
        return 0

    receiver = AE(ae_title=workstation.aet)
    receiver.add_supported_context(CT, EXPLICIT_LE)
    server = receiver.start_server(
        ("127.0.0.1", workstation.port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    ae = AE(ae_title=workstation.aet)
    ae.add_requested_context(STUDY_ROOT_MOVE)
    made = ae.associate("127.0.0.1", bridge.port, ae_title="ANOR")
    identifier = pydicom.Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", study
    statuses, begin = [], time.monotonic()
    try:
        for status, _ in made.send_c_move(identifier, workstation.aet, STUDY_ROOT_MOVE, msg_id=9):
            statuses.append(status)
            if len(statuses) == 2:
                made.send_c_cancel(9, query_model=STUDY_ROOT_MOVE)
        assert time.monotonic() - begin < 6  # nobody waits for what is being sent
        assert statuses[-1].Status == 0xFE00
        assert len(received) <= 2
        assert statuses[-1].NumberOfRemainingSuboperations >= 6
    finally:
        made.release()
        server.shutdown()


async def test_what_is_compressed_comes_so_or_in_what_the_peer_takes(
    bridge: Bridge, archive: Archive, workstation: Modality, dcmtk: dict[str, str], tmp_path: Path
) -> None:
    original = pydicom.dcmread(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm"))
    data = Path(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm")).read_bytes()  # noqa: ASYNC240
    await stored(archive, data)
    wanted = {name: original[name].value for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    keys = [word for name, uid in {"QueryRetrieveLevel": "IMAGE", **wanted}.items() for word in ("-k", f"{name}={uid}")]
    call = ("-aet", workstation.aet, "-aec", "ANOR", "127.0.0.1", bridge.port)
    for option, syntax in (("+xy", "1.2.840.10008.1.2.4.50"), ("-x=", EXPLICIT_LE)):
        folder = tmp_path / option
        folder.mkdir()
        done = run(dcmtk, "getscu", "-S", option, "-od", folder, *call, *keys)
        assert done.returncode == 0, done.stderr
        [path] = folder.iterdir()
        came = pydicom.dcmread(io.BytesIO(path.read_bytes()))
        assert came.file_meta.TransferSyntaxUID == syntax
        assert came.pixel_array.shape == original.pixel_array.shape


@pytest.mark.parametrize(
    ("kept", "megabytes"),
    [
        (EXPLICIT_LE, 100),
        ("1.2.840.10008.1.2", 100),
        pytest.param(EXPLICIT_LE, 400, marks=[pytest.mark.full, pytest.mark.timeout(300)]),
    ],
)
async def test_large_objects_are_got_within_bounded_memory(
    bridge: Bridge,
    archive: Archive,
    workstation: Modality,
    dcmtk: dict[str, str],
    tmp_path: Path,
    kept: str,
    megabytes: int,
) -> None:
    large = dataset(Rows=1024, Columns=1024, NumberOfFrames=megabytes // 2, PixelData=b"\0\0")
    head = encoded(large, kept)[:-6]  # without the length and the value of Pixel Data, which is the last element
    spool = archive.new_spool()
    await spool.write(head + struct.pack("<I", megabytes << 20))
    for _ in range(megabytes):
        await spool.write(bytes(1 << 20))
    await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={large.StudyInstanceUID}")
    call = ("-aet", workstation.aet, "-aec", "ANOR", "127.0.0.1", bridge.port)
    with Peak(bridge.processes()) as peak:
        done = await asyncio.to_thread(run, dcmtk, "getscu", "-S", "+B", "-od", tmp_path, *call, *keys)
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path).keys() == {large.SOPInstanceUID}
    assert peak.bytes - peak.before < 32 << 20
