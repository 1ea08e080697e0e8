import io
import subprocess
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from pynetdicom import AE, _config

from dicomweb.orthanc_kinds import METADATA
from dicomweb.tags import Level
from dimse_bridge.contexts import STORAGE_CLASSES, TRANSFER_SYNTAXES
from storage.access import LOCAL
from storage.find import Wanted
from tests.dimse import wire
from tests.dimse.wire import CT, EXPLICIT_LE, Wire
from tests.files import uid_like


def dataset_bytes(file: bytes) -> bytes:
    """What follows the file meta group."""
    return file[144 + int.from_bytes(file[140:144], "little") :]


def small(sop_instance: str, *, study: str = "", sop_class: str = CT, **attributes: object) -> bytes:
    """A data set of a few elements in Explicit VR Little Endian, without file meta."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = sop_instance
    dataset.StudyInstanceUID = study or generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.PatientID = "DIMSE"
    for name, value in attributes.items():
        setattr(dataset, name, value)
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, implicit_vr=False, little_endian=True)
    return out.getvalue()


async def stored_file(archive, sop_instance: str) -> bytes:
    row = await archive.db.fetch_sql(
        "SELECT object_key, object_size FROM instance WHERE tenant = 1 AND sop_uid = $1", sop_instance
    )
    assert row, "the instance is not in the index"
    data = await archive.objects.get(row[0]["object_key"])
    assert len(data) == row[0]["object_size"]
    return data


def send(bridge, path: Path, syntax: str, *, calling: str = "MODALITY") -> pydicom.Dataset:
    """C-STORE of a file whose data set goes over the wire as it is."""
    ae = AE(ae_title=calling)
    ae.add_requested_context(pydicom.dcmread(path, stop_before_pixels=True).file_meta.MediaStorageSOPClassUID, syntax)
    association = ae.associate("127.0.0.1", bridge.port, ae_title="ANOR")
    assert association.is_established
    try:
        return association.send_c_store(path)
    finally:
        association.release()


@pytest.fixture
def raw_sending(monkeypatch):
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)


def as_new(source: Path, target: Path) -> str:
    """Copy a file with another SOP Instance UID of the same length in place of its own; the new UID."""
    file = pydicom.dcmread(source, stop_before_pixels=True)
    old = file.SOPInstanceUID
    new = uid_like(old)
    data = source.read_bytes()
    if not file.file_meta.TransferSyntaxUID.is_deflated:
        at = len(data) - len(dataset_bytes(data))
        data = data[:at] + data[at:].replace(old.encode(), new.encode())
        file.file_meta.MediaStorageSOPInstanceUID = new
        head = io.BytesIO()
        pydicom.filewriter.write_file_meta_info(head, file.file_meta)
        data = bytes(128) + b"DICM" + head.getvalue() + data[at:]
    else:
        new = old
    target.write_bytes(data)
    return new


NAMES = [
    "CT_small.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "image_dfl.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "JPEG-lossy.dcm",
    "JPGLosslessP14SV1_1s_1f_8b.dcm",
    "emri_small_jpeg_ls_lossless.dcm",
    "693_J2KR.dcm",
    "emri_small_jpeg_2k_lossless.dcm",
    "MR_small_RLE.dcm",
    "rtplan.dcm",
    "reportsi.dcm",
]


@pytest.mark.parametrize("name", NAMES)
async def test_what_is_sent_is_stored_byte_for_byte(bridge, archive, raw_sending, tmp_path, name):
    path = tmp_path / name
    uid = as_new(Path(get_testdata_file(name)), path)
    meta = pydicom.dcmread(path, stop_before_pixels=True).file_meta
    original = dataset_bytes(path.read_bytes())
    status = send(bridge, path, meta.TransferSyntaxUID)
    assert status.Status == 0, status
    stored = await stored_file(archive, uid)
    assert dataset_bytes(stored) == original
    written = pydicom.dcmread(io.BytesIO(stored), stop_before_pixels=True).file_meta
    assert written.TransferSyntaxUID == meta.TransferSyntaxUID
    assert written.MediaStorageSOPClassUID == meta.MediaStorageSOPClassUID
    assert written.SourceApplicationEntityTitle == "MODALITY"
    assert written.ImplementationVersionName == "ANOR_0.1"


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.112", "1.2.840.10008.1.2.4.203"])
async def test_an_encoding_that_nobody_here_can_decode_is_stored(bridge, archive, syntax):
    uid = generate_uid()
    data = small(uid) + bytes.fromhex(
        "e07f1000 4f420000 ffffffff feff00e0 00000000 feff00e0 04000000 01020304 feffdde0 00000000"
    )
    with Wire(bridge.port) as peer:
        assert peer.associate(CT, syntax=syntax) == 2
        peer.message(1, wire.store_rq(CT, uid), data)
        assert peer.status() == 0
    assert dataset_bytes(await stored_file(archive, uid)) == data


def test_every_storage_class_and_encoding_is_offered():
    assert len(STORAGE_CLASSES) > 190
    assert {
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.840.10008.5.1.4.1.1.77.1.6",
        "1.2.840.10008.5.1.4.1.1.5",
    } <= STORAGE_CLASSES
    for tail in (
        "",
        ".1",
        ".1.99",
        ".2",
        ".4.50",
        ".4.57",
        ".4.70",
        ".4.80",
        ".4.90",
        ".4.92",
        ".5",
        ".4.100",
        ".4.102.1",
    ):
        assert "1.2.840.10008.1.2" + tail in TRANSFER_SYNTAXES
    assert "1.2.840.10008.1.2.8.1" in TRANSFER_SYNTAXES  # deflated frames
    assert not any(uid.startswith("1.2.840.10008.1.2.7") for uid in TRANSFER_SYNTAXES)  # live video


def test_storescu_sends_a_folder_in_one_association(bridge, dcmtk):
    files = [get_testdata_file(name) for name in ("CT_small.dcm", "MR_small.dcm", "SC_rgb.dcm")]
    for _ in range(2):  # the second time everything is there already
        done = subprocess.run(
            ["storescu", "-v", "-aec", "ANOR", "127.0.0.1", str(bridge.port), *files],
            env=dcmtk,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("Received Store Response (Success)") == len(files)


def test_the_same_again_succeeds_and_other_bytes_are_a_duplicate(bridge):
    uid, study = generate_uid(), generate_uid()
    data = small(uid, study=study)
    with Wire(bridge.port) as peer:
        assert peer.associate(CT) == 2
        for _ in range(2):
            peer.message(1, wire.store_rq(CT, uid), data)
            assert peer.status() == 0
        other = pydicom.dcmread(io.BytesIO(data), force=True)
        other.PatientComments = "other"
        out = io.BytesIO()
        pydicom.dcmwrite(out, other, implicit_vr=False, little_endian=True)
        peer.message(1, wire.store_rq(CT, uid, 7), out.getvalue())
        answer = peer.answer()
        assert int.from_bytes(answer[0x0900], "little") == 0xC111
        assert int.from_bytes(answer[0x0120], "little") == 7
        assert b"SOPInstanceUID" in answer[0x0902]
        assert len(answer[0x0902]) <= 64


@pytest.mark.parametrize(
    ("sop_class", "sop_instance", "status"),
    [
        (CT, "1.2.3.4.5.6.7", 0xA900),  # another instance than the data set's
        (wire.SECONDARY_CAPTURE, None, 0xA900),  # another class than the context's
        (CT, "../../../../tmp/x", 0xC000),
        (CT, "..", 0xC000),
        (CT, "1.2\0x", 0xC000),
        (CT, "A" * 64, 0xC000),
        (CT, "1." * 40 + "1", 0xC000),  # 81 characters
        (CT, "1.2.\xe9", 0xC000),
    ],
)
async def test_wrong_uids_are_refused_and_the_association_lives(bridge, archive, sop_class, sop_instance, status):
    uid = generate_uid()
    with Wire(bridge.port) as peer:
        assert peer.associate(CT) == 2
        peer.message(1, wire.store_rq(sop_class, sop_instance or uid), small(uid))
        answer = peer.answer()
        assert int.from_bytes(answer[0x0900], "little") == status
        assert answer[0x0902]
        peer.message(1, wire.store_rq(CT, uid), small(uid))
        assert peer.status() == 0


async def test_a_data_set_of_another_class_than_the_request_is_refused(bridge):
    uid = generate_uid()
    with Wire(bridge.port) as peer:
        assert peer.associate(CT) == 2
        peer.message(1, wire.store_rq(CT, uid), small(uid, sop_class=wire.SECONDARY_CAPTURE))
        assert peer.status() == 0xA900


@pytest.mark.parametrize("cut", [1, 9, 40, 150])
async def test_a_cut_data_set_is_not_understood(bridge, archive, cut):
    uid = generate_uid()
    data = small(uid, PixelData=bytes(100), Rows=10, Columns=10, BitsAllocated=8, SamplesPerPixel=1)
    with Wire(bridge.port) as peer:
        assert peer.associate(CT) == 2
        peer.message(1, wire.store_rq(CT, uid), data[:-cut])
        assert peer.status() == 0xC000
    found = await archive.db.fetch_sql("SELECT 1 FROM instance WHERE sop_uid = $1", uid)
    assert not found


def test_no_data_set_or_an_empty_one_is_no_instance(bridge):
    with Wire(bridge.port) as peer:
        assert peer.associate(CT) == 2
        peer.message(1, wire.store_rq(CT, generate_uid()), b"")
        assert peer.status() == 0xC000


async def test_fragments_may_be_cut_anywhere(bridge, archive):
    uid = generate_uid()
    data = small(uid, PatientComments="x" * 300)
    command = wire.store_rq(CT, uid)
    with Wire(bridge.port) as peer:
        assert peer.associate(CT) == 2
        for at in range(len(command)):
            peer.data(1, 3 if at == len(command) - 1 else 1, command[at : at + 1])
        for at in range(0, len(data), 3):
            peer.data(1, 2 if at + 3 >= len(data) else 0, data[at : at + 3])
        assert peer.status() == 0
        # Command and data set in one PDU, the data set's last fragment empty.
        uid = generate_uid()
        data = small(uid)
        fragments = [(3, wire.store_rq(CT, uid)), (0, data[:10]), (0, data[10:]), (2, b"")]
        peer.send(wire.pdu(4, b"".join(wire.pdv(1, header, part) for header, part in fragments)))
        assert peer.status() == 0
    assert dataset_bytes(await stored_file(archive, uid)) == data


async def test_provenance_says_who_sent_it(bridge, archive, raw_sending):
    uid = generate_uid()
    path = Path(get_testdata_file("CT_small.dcm"))
    file = pydicom.dcmread(path)
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = uid
    target = archive.settings.data / "provenance.dcm"
    file.save_as(target)
    assert send(bridge, target, EXPLICIT_LE, calling="CT_ROOM_1").Status == 0
    rows = await archive.db.fetch_sql("SELECT source::text AS source FROM instance WHERE sop_uid = $1", uid)
    assert LOCAL.principal not in rows[0]["source"]
    [instance] = await archive.resources.lookup(LOCAL, uid)
    metadata = await archive.resources.metadata(LOCAL, instance)
    expected = {"Origin": "DicomProtocol", "RemoteAET": "CT_ROOM_1", "RemoteIP": "127.0.0.1", "CalledAET": "ANOR"}
    assert {name: metadata[METADATA[name]] for name in expected} == expected
    for called, count in (("ANOR", 1), ("OTHER", 0)):
        said = {METADATA["CalledAET"]: called, METADATA["RemoteAET"]: "CT_ROOM_1"}
        assert await archive.find.count(LOCAL, Wanted(Level.INSTANCE, {"00080018": uid}, said)) == count
