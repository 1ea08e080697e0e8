"""STOW-RS against a running server: what clients send, and what is wrong with some of it."""

import socket
import time
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO

import httpx
import numpy as np
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread

from dicomweb.multipart import Writer
from dicomweb.store_answer import content_digest, read_answer
from tests.files import ct, dataset, encoded, new_uid
from tests.http.bodies import ROOT, items, multipart, problem, reasons, store, stored
from tests.support import RunningServer

MULTIPART = 'multipart/related; type="application/dicom"; boundary="b"'


def _found(web: httpx.Client, study: str) -> int:
    answer = web.get(f"{ROOT}/studies/{study}/instances")
    return len(answer.json()) if answer.status_code == 200 else 0


def test_dicomweb_client_stores_and_sees_its_instances(dicomweb: DICOMwebClient) -> None:
    study, series = new_uid(), new_uid()
    files = [dataset(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=n) for n in range(1, 6)]
    answer = dicomweb.store_instances([dcmread(BytesIO(encoded(file))) for file in files])
    assert [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence] == [f.SOPInstanceUID for f in files]
    assert "FailedSOPSequence" not in answer
    assert answer.RetrieveURL.endswith(f"/dicom-web/studies/{study}")
    found = dicomweb.search_for_instances(study, series)
    assert {row["00080018"]["Value"][0] for row in found} == {f.SOPInstanceUID for f in files}


def test_one_file_as_the_whole_body(web: httpx.Client) -> None:
    study = new_uid()
    answer = web.post(
        f"{ROOT}/studies", content=ct(StudyInstanceUID=study), headers={"Content-Type": "application/dicom"}
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert _found(web, study) == 1


def test_file_meta_information_that_names_another_instance(web: httpx.Client) -> None:
    """As after an anonymisation that forgot it: the data set counts, and the sender is told."""
    ds = dataset()
    file = encoded(ds)
    named, other = str(ds.SOPInstanceUID), new_uid().ljust(len(ds.SOPInstanceUID), "1")[: len(ds.SOPInstanceUID)]
    file = file.replace(named.encode(), other.encode(), 1)
    assert dcmread(BytesIO(file)).SOPInstanceUID == named != dcmread(BytesIO(file)).file_meta.MediaStorageSOPInstanceUID
    answer = store(web, file)
    assert answer.status_code == 202
    (item,) = answer.json()["00081199"]["Value"]
    assert item["00081155"]["Value"] == [named]
    assert item["00081196"]["Value"] == [0xB006]
    assert item["00000902"]["Value"][0].startswith("the file meta information names another SOP Instance UID")
    path = f"{ROOT}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances"
    assert web.get(f"{path}/{named}", headers={"accept": "application/dicom"}).content == file
    assert web.get(f"{path}/{other}").status_code == 404


def test_body_as_ohif_sends_it(web: httpx.Client) -> None:
    """A line break before the first boundary, quoted parameters, no Accept header."""
    study = new_uid()
    headers = {"Content-Type": MULTIPART}
    request = web.build_request(
        "POST", f"{ROOT}/studies", content=b"\r\n" + multipart([ct(StudyInstanceUID=study)]), headers=headers
    )
    del request.headers["accept"]
    assert web.send(request).status_code == 200
    assert _found(web, study) == 1


def test_chunked_body_cut_anywhere(web: httpx.Client) -> None:
    study = new_uid()
    body = multipart([ct(StudyInstanceUID=study) for _ in range(3)])

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(body), 97):
            yield body[start : start + 97]

    answer = web.post(f"{ROOT}/studies", content=chunks(), headers={"Content-Type": MULTIPART})
    assert answer.status_code == 200
    assert len(stored(answer)) == 3


def test_unquoted_type_and_parts_without_type(web: httpx.Client) -> None:
    headers = {"Content-Type": "multipart/related; type=application/dicom; boundary=b"}
    answer = web.post(f"{ROOT}/studies", content=multipart([ct()], part_type=None), headers=headers)
    assert answer.status_code == 200


def test_a_bad_part_does_not_touch_its_neighbours(web: httpx.Client) -> None:
    study = new_uid()
    good = [dataset(StudyInstanceUID=study) for _ in range(3)]
    files = [encoded(good[0]), b"not DICOM at all", encoded(good[1]), ct(StudyInstanceUID=study)[:-5], encoded(good[2])]
    answer = store(web, *files)
    assert answer.status_code == 202
    assert stored(answer) == [ds.SOPInstanceUID for ds in good]
    assert reasons(answer) == [0xC000, 0xC000]
    assert _found(web, study) == 3


def test_nothing_stored_is_409(web: httpx.Client) -> None:
    answer = store(web, b"not DICOM at all")
    assert answer.status_code == 409
    assert reasons(answer) == [0xC000]


def test_other_study_than_the_resource(web: httpx.Client) -> None:
    study, other = new_uid(), dataset()
    answer = store(web, ct(StudyInstanceUID=study), encoded(other), study=study)
    assert answer.status_code == 202
    [failed] = items(answer, "00081198")
    assert failed["00081155"]["Value"] == [other.SOPInstanceUID]
    assert failed["00081197"]["Value"] == [0xA900]
    assert _found(web, other.StudyInstanceUID) == 0


def test_sending_the_same_again_succeeds(web: httpx.Client) -> None:
    file = ct()
    assert [store(web, file).status_code for _ in range(3)] == [200, 200, 200]


def test_other_bytes_under_a_stored_uid_are_refused(web: httpx.Client) -> None:
    ds = dataset()
    assert store(web, encoded(ds)).status_code == 200
    ds.KVP = "80"
    answer = store(web, encoded(ds))
    assert answer.status_code == 409
    [failed] = items(answer, "00081198")
    assert failed["00081150"]["Value"] == [ds.SOPClassUID]
    assert failed["00081155"]["Value"] == [ds.SOPInstanceUID]
    assert failed["00081197"]["Value"] == [0x0111]


def test_body_without_its_end_keeps_what_came_before(web: httpx.Client) -> None:
    study = new_uid()
    body = multipart([ct(StudyInstanceUID=study), ct(StudyInstanceUID=study)])
    answer = web.post(f"{ROOT}/studies", content=body[:-300], headers={"Content-Type": MULTIPART})
    assert answer.status_code == 400
    assert problem(answer) == "bad-request"
    assert "1 instances that came before are stored" in answer.json()["detail"]
    assert _found(web, study) == 1


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 415),
        ("application/json", 415),
        ("multipart/form-data; boundary=b", 415),
        ('multipart/related; type="application/dicom+json"; boundary=b', 415),
        ("multipart/related; type=application/dicom", 400),
        ("multipart/related; type=application/dicom; boundary=" + "b" * 500, 400),
        ("nonsense", 400),
    ],
)
def test_other_types_of_body(web: httpx.Client, content_type: str | None, status: int) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = web.post(f"{ROOT}/studies", content=multipart([ct()]), headers=headers)
    assert answer.status_code == status
    assert problem(answer) == {415: "unsupported-media-type", 400: "bad-request"}[status]


def test_content_encoding_is_refused(web: httpx.Client) -> None:
    answer = web.post(f"{ROOT}/studies", content=b"x", headers={"Content-Type": MULTIPART, "Content-Encoding": "gzip"})
    assert answer.status_code == 415


def test_part_of_another_type_fails_alone(web: httpx.Client) -> None:
    body = multipart([ct()])[: -len(b"--b--\r\n")] + multipart([b"{}"], part_type="application/dicom+json")
    answer = web.post(f"{ROOT}/studies", content=body, headers={"Content-Type": MULTIPART})
    assert answer.status_code == 202
    assert len(stored(answer)) == 1


def test_no_part_at_all(web: httpx.Client) -> None:
    answer = web.post(f"{ROOT}/studies", content=b"--b--\r\n", headers={"Content-Type": MULTIPART})
    assert answer.status_code == 400


def test_malformed_study_uid(web: httpx.Client) -> None:
    answer = store(web, ct(), study="1.2.a")
    assert answer.status_code == 400
    assert answer.json()["attribute"] == "study"


def test_large_instance_goes_through_the_disk(web: httpx.Client) -> None:
    rows = np.zeros((4096, 3000), "<u2")
    ds = dataset(Rows=4096, Columns=3000, PixelData=rows.tobytes())
    file = encoded(ds)
    assert len(file) > 20 << 20
    answer = store(web, ct(StudyInstanceUID=ds.StudyInstanceUID), file, ct(StudyInstanceUID=ds.StudyInstanceUID))
    assert answer.status_code == 200
    path = f"{ROOT}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    assert web.get(path, headers={"Accept": "application/dicom"}).content == file


def test_client_that_leaves_in_the_middle(server: RunningServer, web: httpx.Client) -> None:
    study = new_uid()
    body = multipart([ct(StudyInstanceUID=study), ct(StudyInstanceUID=study)])
    head = (
        f"POST {ROOT}/studies HTTP/1.1\r\nHost: a\r\nContent-Type: {MULTIPART}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + body[:-200])
    deadline = time.monotonic() + 10
    while _found(web, study) != 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _found(web, study) == 1  # the complete part, not the cut one


def test_limits(strict: httpx.Client) -> None:
    too_many = store(strict, *[ct() for _ in range(4)])
    assert too_many.status_code == 413
    assert "more than 3 parts (max_parts); 3 instances that came before are stored" in too_many.json()["detail"]
    declared = store(strict, b"x" * 400_000)
    assert (declared.status_code, problem(declared)) == (413, "too-large")
    assert declared.json()["detail"] == "the request body is larger than 300000 bytes (max_body)"
    chunked = strict.post(
        f"{ROOT}/studies", content=iter([b"--b\r\n\r\n", *[b"x" * 9_000] * 60]), headers={"Content-Type": MULTIPART}
    )
    assert chunked.status_code == 413
    ds = dataset(Rows=300, Columns=300, PixelData=bytes(180_000))
    beside = store(strict, encoded(ds), ct())
    assert beside.status_code == 202
    assert reasons(beside) == [0xA700]
    assert "larger than 100000 bytes (max_instance)" in items(beside, "0008119A")[0]["00000902"]["Value"][0]


def test_a_file_that_is_refused_is_named_as_far_as_it_can_be_read(web: httpx.Client) -> None:
    ds = dataset()
    file = encoded(ds)
    answer = store(web, file[:-10], b"no file at all", ct())
    assert answer.status_code == 202
    (cut,) = items(answer, "00081198")
    assert cut["00081155"]["Value"] == [ds.SOPInstanceUID]
    assert cut["00081150"]["Value"] == [ds.SOPClassUID]
    (unknown,) = items(answer, "0008119A")
    assert unknown["00000902"]["Value"][0].startswith("part 2: ")


def test_another_patient_in_a_study_is_a_warning(web: httpx.Client) -> None:
    study = new_uid()
    assert store(web, ct(StudyInstanceUID=study, PatientID="ONE")).status_code == 200
    answer = store(web, ct(StudyInstanceUID=study, PatientID="TWO"))
    assert answer.status_code == 202
    (item,) = items(answer, "00081199")
    assert item["00081196"]["Value"] == [0xB000]
    assert "another PatientID" in item["00000902"]["Value"][0]


def _digested(file: bytes, digest: bytes) -> bytes:
    part = [("Content-Type", "application/dicom"), ("Content-Digest", content_digest(digest))]
    writer = Writer("b")
    return writer.part_head(part) + file + writer.tail()


def test_part_with_its_digest(web: httpx.Client) -> None:
    """What arrives is compared with it, and the answer attests what is held; others are not told."""
    ds = dataset()
    file = encoded(ds)
    digest = sha256(file).digest()
    headers = {"Content-Type": MULTIPART}
    wrong = web.post(f"{ROOT}/studies", content=_digested(file, bytes(32)), headers=headers)
    assert wrong.status_code == 409
    assert wrong.json()["0008119A"]["Value"][0]["00081197"]["Value"] == [0x0110]
    assert _found(web, str(ds.StudyInstanceUID)) == 0
    for _ in range(2):  # stored, then recognised
        answer = web.post(f"{ROOT}/studies", content=_digested(file, digest), headers=headers)
        assert answer.status_code == 200
        assert read_answer(answer.content).stored == {str(ds.SOPInstanceUID): digest}
    assert read_answer(store(web, file).content).stored == {str(ds.SOPInstanceUID): None}


def test_digest_of_a_file_without_preamble(web: httpx.Client) -> None:
    file = ct()[132:]
    answer = web.post(
        f"{ROOT}/studies", content=_digested(file, sha256(file).digest()), headers={"Content-Type": MULTIPART}
    )
    assert answer.status_code == 200
