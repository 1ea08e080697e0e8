"""All bulk data and all pixel data of a study, series or instance (PS3.18 10.4.1.1.5)."""

from io import BytesIO

import httpx
import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGLSLossless

from tests.files import compressed, dataset, encoded, new_uid
from tests.http.bodies import ROOT, problem, store
from tests.http.test_wado import parts


def even(stream: bytes) -> bytes:
    """A code stream as a fragment holds it."""
    return stream + bytes(len(stream) % 2)


STORED = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
PROFILE = bytes(range(256)) * 20
FRAMES = [np.full((64, 64), n, "<u2") for n in (1, 2, 3)]
LS = [even(bytes(imagecodecs.jpegls_encode(frame, level=0))) for frame in FRAMES]
WIDE = {"Rows": 64, "Columns": 64, "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}


@pytest.fixture
def study(web: httpx.Client) -> tuple[str, list[str]]:
    """A study of a native image with a profile in a sequence, a compressed one of three frames, one in big endian and a
    report; the paths of study and instances."""
    place = {"StudyInstanceUID": new_uid(), "SeriesInstanceUID": new_uid()}
    item = Dataset()
    item.ICCProfile = PROFILE
    big = FRAMES[0].astype(">u2").tobytes()
    report = dataset(InstanceNumber=4, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", PixelData=None, Rows=None, **place)
    files = [
        encoded(dataset(InstanceNumber=1, OpticalPathSequence=[item], **place)),
        compressed(LS, JPEGLSLossless, InstanceNumber=2, **place, **WIDE),
        encoded(dataset(InstanceNumber=3, PixelData=big, **place, **WIDE), ExplicitVRBigEndian),
        encoded(report),
    ]
    assert store(web, *files).status_code == 200
    path = f"{ROOT}/studies/{place['StudyInstanceUID']}"
    series = f"{path}/series/{place['SeriesInstanceUID']}"
    uids = [dcmread(BytesIO(file), stop_before_pixels=True).SOPInstanceUID for file in files]
    return path, [f"{series}/instances/{uid}" for uid in uids]


def shown(answer: httpx.Response) -> list[tuple[str, str, bytes]]:
    """Path, type and bytes of each part."""
    assert answer.status_code == 200
    return [(httpx.URL(head["Content-Location"]).path, head["Content-Type"], body) for head, body in parts(answer)]


def test_everything_as_stored(web: httpx.Client, study: tuple[str, list[str]]) -> None:
    path, (native, compressed_one, big, report) = study
    octets, little = "application/octet-stream; transfer-syntax=", ExplicitVRLittleEndian
    pixels = [
        (f"{native}/bulkdata/7FE00010", f"{octets}{little}", np.arange(16, dtype="<u2").tobytes()),
        *((f"{compressed_one}/frames/{n}", f"{octets}{JPEGLSLossless}", body) for n, body in enumerate(LS, 1)),
        (f"{big}/bulkdata/7FE00010", f"{octets}{little}", FRAMES[0].tobytes()),
    ]
    profile = (f"{native}/bulkdata/00480105/0/00282000", f"{octets}{little}", PROFILE)
    for place in (path, native.partition("/instances")[0]):
        found = shown(web.get(f"{place}/pixeldata", headers={"accept": STORED}))
        assert found == pixels
        every = shown(web.get(f"{place}/bulkdata", headers={"accept": STORED}))
        assert sorted(every) == sorted([*found, profile])
    assert [where for where, _, _ in shown(web.get(f"{native}/bulkdata"))] == [profile[0], pixels[0][0]]
    for place in (f"{report}/bulkdata", f"{report}/pixeldata", f"{ROOT}/studies/1.2.3/pixeldata"):
        gone = web.get(place)
        assert (gone.status_code, problem(gone)) == (404, "not-found")


def test_each_part_is_what_its_location_gives(web: httpx.Client, study: tuple[str, list[str]]) -> None:
    path, _ = study
    answer = web.get(f"{path}/bulkdata", headers={"accept": STORED})
    for head, body in parts(answer):
        alone = web.get(head["Content-Location"], headers={"accept": "application/octet-stream; transfer-syntax=*"})
        assert (alone.content, alone.headers["content-type"]) == (body, head["Content-Type"])
    tag = {"if-none-match": answer.headers["etag"], "accept": STORED}
    assert web.get(f"{path}/bulkdata", headers=tag).status_code == 304
    assert web.get(f"{path}/pixeldata", headers=tag).status_code == 200


def test_pixels_in_another_syntax(web: httpx.Client, study: tuple[str, list[str]]) -> None:
    path, (native, _, _, _) = study
    answer = web.get(f"{path}/pixeldata", headers={"accept": 'multipart/related; type="application/octet-stream"'})
    assert [np.frombuffer(body, "<u2")[0] for _, _, body in shown(answer)][1:4] == [1, 2, 3]
    images = shown(web.get(f"{path}/pixeldata", headers={"accept": "image/jp2"}))
    assert {kind.partition(";")[0] for _, kind, _ in images} == {"image/jp2"}
    assert [where.rpartition("/instances/")[2].partition("/")[2] for where, _, _ in images] == [
        "frames/1", "frames/1", "frames/2", "frames/3", "frames/1",
    ]  # fmt: skip
    assert [int(imagecodecs.jpeg2k_decode(body)[0, 0]) for _, _, body in images] == [0, 1, 2, 3, 1]
    for place, accept in ((f"{path}/bulkdata", "image/jp2"), (f"{native}/pixeldata", "text/plain")):
        refused = web.get(place, headers={"accept": accept})
        assert (refused.status_code, problem(refused)) == (406, "not-acceptable")


def test_a_broken_frame_among_others(web: httpx.Client) -> None:
    place = {"StudyInstanceUID": new_uid(), "SeriesInstanceUID": new_uid()}
    files = [compressed([LS[0], LS[1][:40], LS[2]], JPEGLSLossless, **place, **WIDE), encoded(dataset(**place))]
    assert store(web, *files).status_code in (200, 202)
    answer = web.get(
        f"{ROOT}/studies/{place['StudyInstanceUID']}/pixeldata", headers={"accept": "application/octet-stream"}
    )
    kinds = [(kind.partition(";")[0], where.rpartition("/")[2]) for where, kind, _ in shown(answer)]
    octets = "application/octet-stream"
    assert sorted(kinds) == sorted(
        [(octets, "1"), ("application/problem+json", "2"), (octets, "3"), (octets, "7FE00010")]
    )
