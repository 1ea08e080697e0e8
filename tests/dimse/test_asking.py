"""Requests of ours to peers of every kind: by TLS, for worklists, and to those that mean harm."""

import asyncio
import contextlib
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from api.routes.orthanc.dialect import shown
from dicomweb.errors import BadRequest, PeerFailed, Unavailable
from dimse_bridge.asking import data_set, keys_named, level_of, query_of, retrieval, tag_of
from dimse_bridge.contexts import COMMITMENT, MODALITY_WORKLIST, VERIFICATION
from dimse_bridge.scu import COMMITMENT_INSTANCE, FIND, STUDY_ROOT, Requestor, packed, unpacked
from storage.archive import Archive, open_archive
from storage.modalities import Modality
from storage.selection import UniqueKeys
from storage.settings import Settings
from tests import files
from tests.dimse.programs import listening, storescp
from tests.dimse.test_sending import outcomes, stored
from tests.support import free_port

MODEL = STUDY_ROOT + FIND


@pytest.fixture
def own_settings() -> dict[str, object]:
    return {"dimse_timeout": 3, "dimse_requests": 2}


def make_certificate(folder: Path, name: str) -> Path:
    """Certificate and key in one file, signed by itself."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate,
         "-days", "2", "-subj", f"/CN={name}"],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / f"{name}.pem").write_text(certificate.read_text() + key.read_text())
    return certificate


async def test_the_profile_holds_for_what_we_ask(
    settings: Callable[..., Settings], database_url: str, tmp_path: Path
) -> None:
    """A peer that speaks nothing but CBC is not spoken to, unless the cipher suites are set."""
    make_certificate(tmp_path, "theirs")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.load_cert_chain(tmp_path / "theirs.pem")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.set_ciphers("ECDHE-RSA-AES256-SHA384")
    entity = AE(ae_title="OLD")
    entity.add_supported_context(VERIFICATION)
    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False, ssl_context=old)
    modality = Modality("old", "OLD", "127.0.0.1", port, tls=True, timeout=3.0)
    try:
        for ciphers, heard in (("", False), ("ECDHE+AES:!PSK:!aNULL", True)):
            values = {"dimse_client_ca": tmp_path / "theirs.crt", "dimse_tls_ciphers": ciphers}
            archive = await open_archive(settings(database_url=database_url, **values))
            requestor = Requestor(archive)
            with contextlib.nullcontext() if heard else pytest.raises(PeerFailed):
                await requestor.echo(modality)
            await requestor.close()
            await archive.close()
    finally:
        server.shutdown()


async def test_tls(settings: Callable[..., Settings], database_url: str, tmp_path: Path) -> None:
    ours, theirs = make_certificate(tmp_path, "ours"), make_certificate(tmp_path, "theirs")
    options = ("+tls", str(theirs.with_suffix(".key")), str(theirs), "+cf", str(ours), "-rc")
    told = settings(
        database_url=database_url,
        dimse_client_certificate=tmp_path / "ours.pem",
        dimse_client_ca=theirs,
        dimse_timeout=3,
    )
    archive = await open_archive(told)
    requestor = Requestor(archive)
    [instance] = await stored(archive, files.ct())
    with storescp(tmp_path / "peer", *options) as modality:
        secure = replace(modality, tls=True)
        await requestor.echo(secure)
        assert [each.status for each in await outcomes(requestor, secure, [instance])] == [0]
        with pytest.raises(PeerFailed):
            await requestor.echo(modality)
        # The files are read again when they change: here to a certificate that the peer does not know.
        (tmp_path / "ours.pem").write_bytes((tmp_path / "theirs.pem").read_bytes())
        with pytest.raises(PeerFailed):
            await requestor.echo(secure)
    await requestor.close()
    await archive.close()
    stranger = await open_archive(settings(database_url=database_url, dimse_client_ca=ours, dimse_timeout=3))
    requestor = Requestor(stranger)
    with storescp(tmp_path / "peer", *options) as modality, pytest.raises(PeerFailed):
        await requestor.echo(replace(modality, tls=True))
    await requestor.close()
    await stranger.close()


async def test_worklist_of_wlmscpfs(own: Archive, requestor: Requestor, tmp_path: Path) -> None:
    folder = tmp_path / "WL"
    folder.mkdir()
    (folder / "lockfile").touch()
    item, step = Dataset(), Dataset()
    item.SpecificCharacterSet = "ISO_IR 192"
    item.PatientName, item.PatientID, item.AccessionNumber = "Müller^Jürgen", "W-1", "A-7"
    item.StudyInstanceUID = "1.2.3.4"
    step.ScheduledStationAETitle, step.ScheduledProcedureStepStartDate = "CT1", "20260110"
    step.ScheduledProcedureStepStartTime, step.Modality = "1000", "CT"
    step.ScheduledPerformingPhysicianName = "Doe^Jane"
    step.ScheduledProcedureStepDescription, step.ScheduledProcedureStepID = "Head", "S-1"
    item.RequestedProcedureID, item.RequestedProcedureDescription = "P-1", "Head"
    item.ScheduledProcedureStepSequence = [step]
    item.save_as(folder / "one.wl", implicit_vr=False, little_endian=True)
    port = free_port()
    with listening(["wlmscpfs", "-csk", "-dfp", tmp_path, "-dfr", str(port)], port):
        modality = Modality("wl", "WL", "127.0.0.1", port)
        wanted = data_set(
            {"PatientName": "", "PatientID": "", "ScheduledProcedureStepSequence": [{"Modality": "CT"}]}, utf8=True
        )
        found = [each async for each in requestor.find(modality, wanted, MODALITY_WORKLIST, limit=10)]
    assert [shown(each, "Human")["PatientID"] for each in found] == ["W-1"]
    assert shown(found[0], "Human")["ScheduledProcedureStepSequence"][0]["Modality"] == "CT"
    assert str(found[0].PatientName) == "Müller^Jürgen"


@contextlib.contextmanager
def answering(find: Callable[[evt.Event], Iterator[Any]]) -> Iterator[Modality]:
    ae = AE(ae_title="PEER")
    ae.add_supported_context(MODEL)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find)])
    try:
        yield Modality("peer", "PEER", "127.0.0.1", server.server_address[1])
    finally:
        server.shutdown()


def question() -> Dataset:
    return query_of("STUDY", {"PatientID": ""}, normalise=True)


@pytest.mark.parametrize("when", ["before the response", "behind the response", "five times"])
async def test_commitment_that_is_answered_on_our_association(requestor: Requestor, when: str) -> None:
    """The report comes while the association stays open for it; then the association ends, and so does the request."""
    told: list[str] = []

    async def report(dataset: Dataset) -> None:
        told.append(dataset.TransactionUID)

    def tell(event: evt.Event) -> None:
        for _ in range(5 if when == "five times" else 1):
            event.assoc.send_n_event_report(event.action_information, 1, COMMITMENT, COMMITMENT_INSTANCE)

    def action(event: evt.Event) -> tuple[int, None]:
        if when == "behind the response":
            threading.Timer(0.2, tell, (event,)).start()
        else:
            tell(event)
        return 0, None

    entity = AE(ae_title="PACS")
    entity.add_supported_context(COMMITMENT)
    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_ACTION, action)])
    modality, references = Modality("pacs", "PACS", "127.0.0.1", port), [("1.2.840.10008.5.1.4.1.1.2", "1.2.3")]
    try:
        async with asyncio.timeout(10):
            await requestor.commit(modality, "1.2.3.4", references, report, 2.0)
            await requestor.commit(modality, "1.2.3.5", references, report, 2.0)
    finally:
        server.shutdown()
    assert set(told) == {"1.2.3.4", "1.2.3.5"}


async def test_a_peer_that_never_stops_to_answer(requestor: Requestor) -> None:
    def endless(event: evt.Event) -> Iterator[Any]:
        while not event.is_cancelled:
            yield 0xFF00, event.identifier
        yield 0xFE00, None

    with answering(endless) as modality:
        found = [each async for each in requestor.find(modality, question(), MODEL, limit=25)]
    assert len(found) == 25


async def test_a_failure_is_told(requestor: Requestor) -> None:
    def fail(_event: evt.Event) -> Iterator[Any]:
        refused = Dataset()
        refused.Status, refused.ErrorComment = 0xA700, "not today"
        yield refused, None

    with answering(fail) as modality, pytest.raises(PeerFailed, match="0xA700: not today") as caught:
        _ = [each async for each in requestor.find(modality, question(), MODEL, limit=5)]
    assert caught.value.status == 0xA700


@contextlib.contextmanager
def scripted(answer: Callable[[socket.socket], None]) -> Iterator[Modality]:
    """A peer that takes one association request and then does what it wants."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield Modality("peer", "PEER", "127.0.0.1", listener.getsockname()[1], timeout=1)
    finally:
        listener.close()
        thread.join(5)


@pytest.mark.parametrize(
    "answer",
    [
        lambda c: c.sendall(b"\x02\0" + struct.pack(">L", 0xFFFFFFF0) + bytes(1000)),  # a PDU of 4 GB
        lambda c: c.sendall(b"\x02\0" + struct.pack(">L", 200) + bytes(20)),  # the half of one
        lambda c: (c.sendall(b"\x02\0" + struct.pack(">L", 200)), time.sleep(3)),
        lambda c: c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        lambda c: c.sendall(b"\x07\0\0\0\0\4\0\0\0\0"),
        lambda c: c.sendall(b"\x03\0\0\0\0\4\0\1\1\7"),  # called AE title not recognised
    ],
)
async def test_hostile_answers(requestor: Requestor, answer: Callable[[socket.socket], None]) -> None:
    began = time.monotonic()
    with scripted(answer) as modality, pytest.raises(PeerFailed):
        await requestor.echo(modality)
    assert time.monotonic() - began < 8
    assert requestor._slots._value == 2


async def test_a_rejection_that_comes_at_once_is_told_as_one(requestor: Requestor) -> None:
    busy, interval = threading.Event(), sys.getswitchinterval()
    load = threading.Thread(target=lambda: [sum(range(1000)) for _ in iter(busy.is_set, True)])
    load.start()  # pynetdicom's threads then take turns in another order
    sys.setswitchinterval(0.02)
    try:
        for _ in range(10):
            with (
                scripted(lambda c: c.sendall(b"\x03\0\0\0\0\4\0\2\3\2")) as modality,
                pytest.raises(PeerFailed, match="rejected the association: Local limit exceeded"),
            ):
                await requestor.echo(modality)
    finally:
        sys.setswitchinterval(interval)
        busy.set()
        load.join()


async def test_no_more_than_so_many_at_once(requestor: Requestor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        modality = Modality("x", "X", "127.0.0.1", listener.getsockname()[1], timeout=0.3)
        asked = [asyncio.create_task(requestor.echo(modality)) for _ in range(40)]
        done = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 60)
    kinds = [type(each) for each in done]
    assert set(kinds) == {PeerFailed, Unavailable}
    assert kinds.count(Unavailable) >= 40 - 2 - 16


def test_tags_and_values() -> None:
    assert tag_of("PatientID") == tag_of("0010,0020") == tag_of("0010-0020") == tag_of("00100020") == 0x00100020
    for wrong in ("NoTag", "0010,002", "", "0010,00200"):
        with pytest.raises(BadRequest):
            tag_of(wrong)
    made = data_set(
        {"PatientID": "A\\B", "StudyDate": "20200101-", "Rows": "5", "ReferencedStudySequence": []}, utf8=True
    )
    assert unpacked(packed(made)).StudyDate == "20200101-"
    assert unpacked(packed(made)).Rows == 5
    for wrong in (
        {"PatientID": ["a"]}, {"PatientID": {"a": 1}}, {"PatientID": True}, ["PatientID"], {"StudyDate": [1]},
        {"ReferencedStudySequence": "x"}, {"Rows": "many"}, {"Rows": "70000"}, {"PixelData": "x"},
    ):  # fmt: skip
        with pytest.raises(BadRequest):
            packed(data_set(wrong))
    with pytest.raises(BadRequest):
        level_of("Galaxy")
    assert level_of("studies") == "STUDY"
    deep: Any = {"PatientID": ""}
    for _ in range(20):
        deep = {"ReferencedStudySequence": [deep]}
    with pytest.raises(BadRequest):
        data_set(deep)


def test_identifiers() -> None:
    normal = query_of("STUDY", {"SeriesInstanceUID": "1.2", "Modality": "CT", "PatientName": "A*"}, normalise=True)
    assert "Modality" not in normal
    assert normal.StudyInstanceUID == ""
    raw = query_of("STUDY", {"Modality": "CT"}, normalise=False)
    assert raw.Modality == "CT"
    moved = retrieval("SERIES", {"StudyInstanceUID": "1.2", "SeriesInstanceUID": ["1.3", "1.4"], "Modality": "CT"})
    assert [element.keyword for element in moved] == ["QueryRetrieveLevel", "StudyInstanceUID", "SeriesInstanceUID"]
    assert list(moved.SeriesInstanceUID) == ["1.3", "1.4"]
    for accessions, text in (("A-7", "A-7"), (["A-7", "A-8"], ["A-7", "A-8"])):
        by_accession = retrieval("STUDY", {"AccessionNumber": accessions, "StudyInstanceUID": ""})
        assert [element.keyword for element in by_accession] == ["AccessionNumber", "QueryRetrieveLevel"]
        assert by_accession.AccessionNumber == text
    assert keys_named(by_accession) == UniqueKeys(accessions=("A-7", "A-8"))
    assert keys_named(moved) == UniqueKeys(studies=("1.2",), series=("1.3", "1.4"))
    with pytest.raises(BadRequest, match="SeriesInstanceUID"):
        retrieval("SERIES", {"StudyInstanceUID": "1.2"})


def test_formats() -> None:
    dataset = data_set({"PatientName": "Doe^Jane", "ImageType": "A\\B", "StudyDescription": "x" * 300})
    dataset.ReferencedStudySequence = [data_set({"PatientID": "1"})]
    dataset.SliceThickness = "1.500"
    dataset.add_new(0x00091001, "UN", b"\0\1")
    human, short, full = (shown(unpacked(packed(dataset)), form) for form in ("Human", "Short", "Full"))
    assert human["PatientName"] == "Doe^Jane"
    assert human["ImageType"] == "A\\B"
    assert human["SliceThickness"] == "1.500"
    assert human["ReferencedStudySequence"] == [{"PatientID": "1"}]
    assert human["StudyDescription"] is None
    assert short["0010,0010"] == "Doe^Jane"
    assert full["0008,1030"] == {"Name": "StudyDescription", "Type": "TooLong", "Value": None}
    assert full["0009,1001"] == {"Name": "Unknown", "Type": "Binary", "Value": None}
    assert full["0008,1110"]["Type"] == "Sequence"
