"""WADO-RS against a running server: metadata, files, frames, bulk data, and what HTTP promises about them."""

import gzip
from dataclasses import dataclass
from io import BytesIO

import httpx
import numpy as np
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.files import JPEG_BASELINE, compressed, dataset, encoded, new_uid
from tests.http.bodies import ROOT, problem, store

ANY_FRAME = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'


@dataclass(frozen=True)
class Held:
    """A stored series and where it is."""

    study: str
    series: str
    sops: tuple[str, ...]
    files: tuple[bytes, ...]

    @property
    def path(self) -> str:
        return f"{ROOT}/studies/{self.study}/series/{self.series}"

    def instance(self, index: int = 0) -> str:
        return f"{self.path}/instances/{self.sops[index]}"


def held(web: httpx.Client, *files: bytes) -> Held:
    """Store files of one series."""
    read = [dcmread(BytesIO(file), stop_before_pixels=True) for file in files]
    assert store(web, *files).status_code == 200
    first = read[0]
    return Held(first.StudyInstanceUID, first.SeriesInstanceUID, tuple(ds.SOPInstanceUID for ds in read), files)


@pytest.fixture
def ct_series(web: httpx.Client) -> Held:
    study, series = new_uid(), new_uid()
    rng = np.random.default_rng(1)
    files = [
        encoded(
            dataset(
                StudyInstanceUID=study,
                SeriesInstanceUID=series,
                InstanceNumber=n,
                Rows=64,
                Columns=64,
                PixelData=rng.integers(0, 4096, 64 * 64, "<u2").tobytes(),
            )
        )
        for n in (1, 2, 3)
    ]
    return held(web, *files)


@pytest.fixture
def jpeg_series(web: httpx.Client) -> Held:
    """Five frames; they need not be real JPEG, nobody decodes them."""
    return held(web, compressed([b"\xff\xd8" + bytes([n]) * (1000 + 2 * n) + b"\xff\xd9" for n in range(5)]))


def parts(answer: httpx.Response) -> list[tuple[dict[str, str], bytes]]:
    """The parts of a multipart answer as viewers split it: exact header names, body begins with the boundary."""
    kind = answer.headers["content-type"]
    assert kind.startswith("multipart/related;")
    boundary = kind.split("boundary=")[1].split(";")[0].strip('"').encode()
    assert answer.content.startswith(b"--" + boundary + b"\r\n")
    assert answer.content.rstrip(b"\r\n").endswith(b"--" + boundary + b"--")
    found = []
    for piece in answer.content.split(b"--" + boundary)[1:-1]:
        head, _, body = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        assert "Content-Type" in headers
        found.append((headers, body.removesuffix(b"\r\n")))
    return found


# -- metadata -----------------------------------------------------------------------------------------------------


def test_metadata_at_three_levels_is_what_pydicom_says(web: httpx.Client, ct_series: Held) -> None:
    one = web.get(f"{ct_series.instance()}/metadata").json()
    series = web.get(f"{ct_series.path}/metadata").json()
    study = web.get(f"{ROOT}/studies/{ct_series.study}/metadata").json()
    assert len(series) == 3
    assert study == series
    assert one[0] in series
    expected = dcmread(BytesIO(ct_series.files[0])).to_json_dict()
    pixels = one[0].pop("7FE00010")
    expected.pop("7FE00010")
    assert one[0].pop("00083002") == {"vr": "UI", "Value": ["1.2.840.10008.1.2.1"]}
    assert not any(tag.startswith("0002") for tag in one[0])
    assert one[0] == expected
    assert pixels["vr"] == "OW"
    assert pixels["BulkDataURI"].startswith(f"instances/{ct_series.sops[0]}/bulkdata/7FE00010?v=")


def test_gzip_and_plain_are_the_same(web: httpx.Client, ct_series: Held) -> None:
    for path in (ct_series.path, ct_series.instance(), f"{ROOT}/studies/{ct_series.study}"):
        plain = web.get(f"{path}/metadata", headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        with web.stream("GET", f"{path}/metadata", headers={"Accept-Encoding": "gzip"}) as answer:
            assert answer.headers["content-encoding"] == "gzip"
            assert gzip.decompress(b"".join(answer.iter_raw())) == plain.content
        assert "Accept-Encoding" in plain.headers["vary"]
        assert plain.headers["content-type"] == "application/dicom+json"
        assert plain.headers["etag"] != answer.headers["etag"]


def test_dicomweb_client_reads_metadata(dicomweb: DICOMwebClient, ct_series: Held) -> None:
    assert len(dicomweb.retrieve_study_metadata(ct_series.study)) == 3
    assert len(dicomweb.retrieve_series_metadata(ct_series.study, ct_series.series)) == 3
    one = dicomweb.retrieve_instance_metadata(ct_series.study, ct_series.series, ct_series.sops[1])
    assert one["00200013"]["Value"] == [2]


def test_etag_of_metadata_changes_with_the_series(web: httpx.Client, ct_series: Held) -> None:
    path = f"{ct_series.path}/metadata"
    first = web.get(path)
    assert first.headers["cache-control"] == "private, no-cache"
    same = web.get(path, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["vary"] == first.headers["vary"]  # RFC 9110 15.4.5
    assert same.headers["etag"] == first.headers["etag"]
    more = dataset(StudyInstanceUID=ct_series.study, SeriesInstanceUID=ct_series.series)
    assert store(web, encoded(more)).status_code == 200
    changed = web.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200
    assert len(changed.json()) == 4
    web.delete(f"{ct_series.path}/instances/{more.SOPInstanceUID}")
    assert len(web.get(path, headers={"If-None-Match": changed.headers["etag"]}).json()) == 3


def test_merged_accept_header_of_ohif(web: httpx.Client, ct_series: Held) -> None:
    accept = "application/dicom+json, multipart/related; type=application/octet-stream; transfer-syntax=*"
    assert web.get(f"{ct_series.path}/metadata", headers={"Accept": accept}).status_code == 200
    refused = web.get(f"{ct_series.path}/metadata", headers={"Accept": "text/csv"})
    assert (refused.status_code, problem(refused)) == (406, "not-acceptable")


# -- files --------------------------------------------------------------------------------------------------------


def test_files_come_back_byte_by_byte(web: httpx.Client, ct_series: Held) -> None:
    one = web.get(ct_series.instance(), headers={"Accept": "application/dicom"})
    assert one.content == ct_series.files[0]
    assert one.headers["content-type"] == f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"
    for path in (ct_series.path, f"{ROOT}/studies/{ct_series.study}"):
        answer = web.get(path, headers={"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'})
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert sorted(body for _, body in parts(answer)) == sorted(ct_series.files)


def test_dicomweb_client_retrieves(dicomweb: DICOMwebClient, ct_series: Held) -> None:
    study, series, sop = ct_series.study, ct_series.series, ct_series.sops[0]
    assert dicomweb.retrieve_instance(study, series, sop) == dcmread(BytesIO(ct_series.files[0]))
    assert len(dicomweb.retrieve_series(study, series)) == 3
    assert len(list(dicomweb.iter_study(study))) == 3


@pytest.mark.parametrize("stored", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_some_syntaxes_never_leave(web: httpx.Client, stored: str) -> None:
    pixels = np.arange(16, dtype=">u2" if stored == ExplicitVRBigEndian else "<u2")
    original = dataset(PixelData=pixels.tobytes())
    found = held(web, encoded(original, stored))
    answer = web.get(found.instance(), headers={"Accept": "application/dicom"})
    assert answer.headers["content-type"] == f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"
    got = dcmread(BytesIO(answer.content))
    assert got.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert got.PatientName == original.PatientName
    assert np.array_equal(np.frombuffer(got.PixelData, "<u2"), np.arange(16))
    refused = web.get(found.instance(), headers={"Accept": f"application/dicom; transfer-syntax={stored}"})
    assert (refused.status_code, problem(refused)) == (406, "not-acceptable")
    frame = web.get(f"{found.instance()}/frames/1", headers={"Accept": "application/octet-stream"})
    assert np.array_equal(np.frombuffer(frame.content, "<u2"), np.arange(16))


def test_nothing_there(web: httpx.Client, ct_series: Held) -> None:
    for path in (
        f"{ROOT}/studies/1.2.3.4",
        f"{ROOT}/studies/1.2.3.4/metadata",
        f"{ROOT}/studies/{ct_series.study}/series/1.2.3.4",
        f"{ct_series.path}/instances/1.2.3.4",
        f"{ct_series.path}/instances/1.2.3.4/metadata",
        f"{ct_series.path}/instances/1.2.3.4/frames/1",
        f"{ROOT}/studies/1.2.3.4/series/{ct_series.series}/instances/{ct_series.sops[0]}",
        f"{ct_series.instance()}/frames/2",
        f"{ct_series.instance()}/bulkdata/00281201",
    ):
        answer = web.get(path)
        assert (answer.status_code, problem(answer)) == (404, "not-found"), path
    for path in ("frames/0", "frames/-1", "frames/x", "frames/1,,2", "bulkdata/nothex"):
        assert web.get(f"{ct_series.instance()}/{path}").status_code == 400, path


# -- frames -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "accept",
    [
        ANY_FRAME,
        'multipart/related; type="application/octet-stream"; transfer-syntax="*"',
        "multipart/related; type=application/octet-stream; transfer-syntax=*",
        f"multipart/related; type=application/octet-stream; transfer-syntax={JPEG_BASELINE}; transfer-syntax=*",
        'multipart/related; type="*/*"',
        "multipart/related; type=image/jpeg",
        "*/*",
        None,
    ],
)
def test_a_frame_as_viewers_ask_for_it(web: httpx.Client, jpeg_series: Held, accept: str | None) -> None:
    headers = {"Accept": accept} if accept else {}
    answer = web.get(f"{jpeg_series.instance()}/frames/3", headers=headers)
    assert answer.status_code == 200
    [(head, body)] = parts(answer)
    assert f"transfer-syntax={JPEG_BASELINE}" in head["Content-Type"]
    assert body.startswith(b"\xff\xd8\x02\x02")
    assert body.endswith(b"\xff\xd9")
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_a_frame_as_an_image(web: httpx.Client, jpeg_series: Held) -> None:
    answer = web.get(f"{jpeg_series.instance()}/frames/1", headers={"Accept": "image/jpeg"})
    assert answer.headers["content-type"].startswith("image/jpeg")
    assert answer.content.startswith(b"\xff\xd8\x00")
    by_parameter = web.get(f"{jpeg_series.instance()}/frames/1?accept=image/jpeg", headers={"Accept": "text/html"})
    assert by_parameter.content == answer.content
    refused = web.get(f"{jpeg_series.instance()}/frames/1", headers={"Accept": "image/png"})
    assert refused.status_code == 406
    assert "image/jpeg" in refused.json()["detail"]


def test_many_frames_in_the_order_asked(web: httpx.Client, jpeg_series: Held, dicomweb: DICOMwebClient) -> None:
    answer = web.get(f"{jpeg_series.instance()}/frames/4,1,3,1", headers={"Accept": ANY_FRAME})
    assert [body[2] for _, body in parts(answer)] == [3, 0, 2, 0]
    frames = dicomweb.retrieve_instance_frames(jpeg_series.study, jpeg_series.series, jpeg_series.sops[0], [2, 5])
    assert [frame[2] for frame in frames] == [1, 4]


def test_native_frame_is_the_pixels(web: httpx.Client, ct_series: Held) -> None:
    answer = web.get(f"{ct_series.instance(1)}/frames/1", headers={"Accept": ANY_FRAME})
    [(head, body)] = parts(answer)
    assert f"transfer-syntax={ExplicitVRLittleEndian}" in head["Content-Type"]
    assert body == dcmread(BytesIO(ct_series.files[1])).PixelData


def test_a_download_goes_on_where_it_broke_off(web: httpx.Client, ct_series: Held) -> None:
    accept = {"Accept": "application/dicom; transfer-syntax=*"}
    whole = web.get(ct_series.instance(), headers=accept)
    assert (whole.content, whole.headers["accept-ranges"]) == (ct_series.files[0], "bytes")
    rest = web.get(ct_series.instance(), headers=accept | {"Range": "bytes=100-", "If-Range": whole.headers["etag"]})
    assert rest.status_code == 206
    assert rest.headers["content-range"] == f"bytes 100-{len(whole.content) - 1}/{len(whole.content)}"
    assert rest.content == whole.content[100:]


def test_ranges_of_a_single_part(web: httpx.Client, ct_series: Held) -> None:
    path, accept = f"{ct_series.instance()}/frames/1", "application/octet-stream"
    whole = web.get(path, headers={"Accept": accept})
    assert whole.headers["accept-ranges"] == "bytes"
    size = len(whole.content)
    for wanted, expected in (("0-9", slice(0, 10)), ("100-", slice(100, None)), ("-7", slice(size - 7, None))):
        answer = web.get(path, headers={"Accept": accept, "Range": f"bytes={wanted}"})
        assert answer.status_code == 206
        assert answer.content == whole.content[expected]
        start, end, _ = expected.indices(size)
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
    beyond = web.get(path, headers={"Accept": accept, "Range": f"bytes={size}-"})
    assert (beyond.status_code, problem(beyond)) == (416, "range-not-satisfiable")
    assert beyond.headers["content-range"] == f"bytes */{size}"
    again = {"Accept": accept, "Range": "bytes=0-9"}
    assert web.get(path, headers=again | {"If-Range": whole.headers["etag"]}).status_code == 206
    assert web.get(path, headers=again | {"If-Range": '"another"'}).content == whole.content
    flood = web.get(path, headers={"Accept": accept, "Range": "bytes=" + ",".join(["0-1"] * 2000)})
    assert flood.status_code in {200, 416}


def test_caching_of_versioned_urls(web: httpx.Client, ct_series: Held) -> None:
    [entry] = web.get(f"{ct_series.instance()}/metadata").json()
    version = entry["7FE00010"]["BulkDataURI"].partition("?v=")[2]
    for path in ("/frames/1", "", "/bulkdata/7FE00010"):
        url = ct_series.instance() + path
        right, wrong, without = (web.get(url + query) for query in (f"?v={version}", "?v=0123", ""))
        assert right.headers["cache-control"] == "private, max-age=31536000, immutable"
        assert wrong.headers["cache-control"] == without.headers["cache-control"] == "private, no-cache"
        again = web.get(url, headers={"If-None-Match": right.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        single = not right.headers["content-type"].startswith("multipart")
        accept = 'multipart/related; type="*/*"' if single else "application/octet-stream, application/dicom"
        other = web.get(url, headers={"Accept": accept, "If-None-Match": right.headers["etag"]})
        assert other.status_code == 200  # another representation has another tag


def test_head_of_everything(web: httpx.Client, ct_series: Held) -> None:
    for path in (
        f"{ct_series.instance()}/frames/1",
        ct_series.instance(),
        ct_series.path,
        f"{ct_series.path}/metadata",
    ):
        whole = web.get(path, headers={"Accept-Encoding": "identity"})
        head = web.head(path, headers={"Accept-Encoding": "identity"})
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["etag"] == whole.headers["etag"]
        assert head.headers["content-type"] == whole.headers["content-type"]
        if "content-length" in whole.headers:
            assert head.headers["content-length"] == whole.headers["content-length"]


# -- bulk data ----------------------------------------------------------------------------------------------------


def test_bulk_data_in_sequences_from_every_level(web: httpx.Client, dicomweb: DICOMwebClient) -> None:
    profile = bytes(range(256)) * 20
    item = Dataset()
    item.ICCProfile = profile
    ds = dataset(OpticalPathSequence=[item], RedPaletteColorLookupTableData=np.arange(4096, dtype="<u2").tobytes())
    found = held(web, encoded(ds))
    for base in (f"{ROOT}/studies/{found.study}/", f"{found.path}/", f"{found.instance()}/"):
        [entry] = web.get(f"{base}metadata").json()
        nested = entry["00480105"]["Value"][0]["00282000"]
        assert nested["vr"] == "OB"
        url = httpx.URL(f"{web.base_url}".rstrip("/") + f"{base}metadata").join(nested["BulkDataURI"])
        answer = web.get(url, headers={"Accept": "application/octet-stream"})
        assert answer.content == profile, base
    assert web.get(url, headers={"Accept": "application/octet-stream", "Range": "bytes=256-511"}).content == bytes(
        range(256)
    )
    assert dicomweb.retrieve_bulkdata(str(url)) == [profile]
    [(head, body)] = parts(web.get(url, headers={"Accept": 'multipart/related; type="application/octet-stream"'}))
    assert body == profile
    assert head["Content-Location"]
    palette = web.get(f"{found.instance()}/bulkdata/00281201", headers={"Accept": "application/octet-stream"})
    assert palette.content == np.arange(4096, dtype="<u2").tobytes()


def test_repeated_requests_on_one_connection(web: httpx.Client, jpeg_series: Held) -> None:
    paths = [f"{jpeg_series.instance()}/frames/{n}" for n in (1, 2, 3, 4, 5)] * 10
    bodies = [web.get(path, headers={"Accept": "image/jpeg"}).content for path in paths]
    assert [body[2] for body in bodies] == [0, 1, 2, 3, 4] * 10
