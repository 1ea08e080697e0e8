"""The same requests to Anor and to an installed Orthanc; what differs has to be in infra/docs/orthanc.md."""

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from tests import orthanc as peer
from tests.files import ct
from tests.support import ROOT, running_server
from tests.unit.test_native_xml import flat

FILES = (
    "CT_small.dcm", "MR_small.dcm", "emri_small.dcm", "rtplan.dcm", "SC_rgb_small_odd.dcm", "test-SR.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
)  # fmt: skip
IMAGES = ("CT_small.dcm", "MR_small.dcm", "emri_small.dcm", "SC_rgb_small_odd.dcm")


def _meant() -> list[tuple[str, str]]:
    text = (ROOT / "infra" / "docs" / "orthanc.md").read_text("utf-8")
    table = text.split("## What differs on purpose")[1]
    return re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", table, re.MULTILINE)


MEANT = _meant()


@dataclass
class Both:
    """Anor and Orthanc with the same files. `ids`: what the upload of each file answered."""

    anor: httpx.Client
    orthanc: httpx.Client
    ids: dict[str, dict[str, str]] = field(default_factory=dict)

    def ask(self, method: str, path: str, **more: Any) -> tuple[httpx.Response, httpx.Response]:
        return self.anor.request(method, path, **more), self.orthanc.request(method, path, **more)

    def compare(self, method: str, path: str, *, unordered: bool = False, **more: Any) -> None:
        """Fail with every difference that is not in the table."""
        ours, theirs = self.ask(method, path, **more)
        request = f"{method} {path}" + (f" {json.dumps(more['json'])}" if "json" in more else "")
        found = [each for each in _differences(ours, theirs, unordered) if not _is_meant(request, each[0])]
        assert not found, f"{request}: {found[:20]}"

    def paths(self, name: str) -> dict[str, str]:
        ids = self.ids[name]
        return {
            "patient": f"/patients/{ids['ParentPatient']}",
            "study": f"/studies/{ids['ParentStudy']}",
            "series": f"/series/{ids['ParentSeries']}",
            "instance": f"/instances/{ids['ID']}",
        }


def _is_meant(request: str, where: str) -> bool:
    return any(
        (fnmatchcase(request, wanted) or fnmatchcase(request, f"* {wanted}")) and fnmatchcase(where, place)
        for wanted, place in MEANT
    )


def _differences(ours: httpx.Response, theirs: httpx.Response, unordered: bool) -> Iterator[tuple[str, object, object]]:
    if ours.status_code != theirs.status_code:
        yield "status", ours.status_code, theirs.status_code
        return
    if ours.status_code >= 400:
        if not theirs.content:
            return
        mine, other = ours.json(), theirs.json()
        for name in ("HttpStatus", "OrthancStatus", "Method", "Uri"):
            if mine.get(name) != other.get(name):
                yield name, mine.get(name), other.get(name)
        return
    kinds = [each.headers.get("content-type", "").partition(";")[0] for each in (ours, theirs)]
    if kinds[0] != kinds[1]:
        yield "media type", *kinds
    if ours.headers.get("etag") != theirs.headers.get("etag") and "etag" in theirs.headers:
        yield "etag", ours.headers.get("etag"), theirs.headers.get("etag")
    if kinds[1] == "application/json":
        left, right = ours.json(), theirs.json()
        if unordered:
            left, right = (sorted(each, key=lambda x: x if isinstance(x, str) else x["ID"]) for each in (left, right))
        yield from _in(left, right, "")
    elif ours.content != theirs.content:
        yield "bytes", ours.content[:60], theirs.content[:60]


def _in(ours: Any, theirs: Any, where: str) -> Iterator[tuple[str, object, object]]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted(ours.keys() | theirs.keys()):
            if name not in ours or name not in theirs:
                yield f"{where}/{name}", ours.get(name, "(nothing)"), theirs.get(name, "(nothing)")
            else:
                yield from _in(ours[name], theirs[name], f"{where}/{name}")
    elif isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            yield where + "length", ours, theirs
        else:
            for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
                yield from _in(one, other, f"{where}/{place}")
    elif ours != theirs:
        yield where, ours, theirs


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with (
        running_server(tmp_path_factory.mktemp("anor"), workers=1) as server,
        peer.running_orthanc(tmp_path_factory.mktemp("orthanc"), {}) as orthanc,
        httpx.Client(base_url=server.url, timeout=60) as ours,
        httpx.Client(base_url=orthanc.url, timeout=60) as theirs,
    ):
        made = Both(ours, theirs)
        for name in FILES:
            content = Path(str(get_testdata_file(name))).read_bytes()
            answers = [client.post("/instances", content=content).json() for client in (ours, theirs)]
            assert answers[0] == answers[1]
            made.ids[name] = answers[0]
        yield made


@pytest.mark.parametrize("name", FILES)
def test_resources(both: Both, name: str) -> None:
    for level, path in both.paths(name).items():
        both.compare("GET", path)
        both.compare("GET", f"{path}//statistics/")
        both.compare("GET", f"{path}/metadata", unordered=True)
        both.compare("GET", f"{path}/metadata?expand")
        both.compare("GET", f"{path}/attachments")
        both.compare("GET", f"{path}/module")
        if level != "patient":
            both.compare("GET", f"{path}/patient")
    paths = both.paths(name)
    for path in ("/study", "/series", "/patient"):
        both.compare("GET", paths["instance"] + path)
    both.compare("GET", paths["series"] + "/study")
    both.compare("GET", paths["series"] + "/instances", unordered=True)
    both.compare("GET", paths["study"] + "/series", unordered=True)
    both.compare("GET", paths["patient"] + "/studies", unordered=True)
    both.compare("GET", paths["study"] + "/module-patient")


@pytest.mark.parametrize("level", ["patients", "studies", "series", "instances"])
def test_lists(both: Both, level: str) -> None:
    both.compare("GET", f"/{level}", unordered=True)
    both.compare("GET", f"/{level}/?expand", unordered=True)
    both.compare("GET", f"/{level}?since=100&limit=2")
    assert both.anor.send(both.anor.build_request("GET", f"{both.anor.base_url}//{level}//")).status_code == 200
    for client in (both.anor, both.orthanc):
        assert len(client.get(f"/{level}?since=1&limit=2").json()) == 2
    both.compare("GET", f"/{level}/nothing")
    both.compare("GET", f"/{level}/00000000-00000000-00000000-00000000-00000000")
    both.compare("DELETE", f"/{level}/nothing")
    both.compare("GET", "/statistics")


@pytest.mark.parametrize("name", FILES)
def test_tags(both: Both, name: str) -> None:
    paths = both.paths(name)
    for form in ("tags", "tags?short", "simplified-tags", "header", "header?short", "content"):
        both.compare("GET", f"{paths['instance']}/{form}")
    both.compare("GET", f"{paths['series']}/instances-tags?short")


def test_shared_tags(both: Both) -> None:
    for level in ("patient", "study", "series"):
        both.compare("GET", f"{both.paths('CT_small.dcm')[level]}/shared-tags?short")
        both.compare("GET", f"{both.paths('rtplan.dcm')[level]}/shared-tags?simplify")


@pytest.mark.parametrize(
    "path",
    ["PatientName", "0010-0010", "0010-1002", "0010-1002/1", "0010-1002/1/0010-0020", "0010-1002/7", "0010-0011",
     "7fe0-0010", "7fe0-0010/0", "7fe0-0010/1", "0028-0010", "0043-1028", "nothing"],
)  # fmt: skip
def test_content(both: Both, path: str) -> None:
    both.compare("GET", f"{both.paths('CT_small.dcm')['instance']}/content/{path}")


def test_fragments(both: Both) -> None:
    at = both.paths("SC_rgb_jpeg_dcmtk.dcm")["instance"] + "/content/7fe0-0010"
    for path in ("", "/0", "/1", "/2"):
        both.compare("GET", at + path)


@pytest.mark.parametrize("name", IMAGES)
def test_frames(both: Both, name: str) -> None:
    instance = both.paths(name)["instance"]
    for path in ("/frames", "/frames/0", "/frames/0/raw", "/matlab", "/frames/0/matlab", "/frames/99/raw", "/pdf"):
        both.compare("GET", instance + path)
    for path in ("/numpy", "/numpy?rescale=false", "/frames/0/numpy", "/numpy?compress"):
        arrays = []
        for answer in both.ask("GET", instance + path):
            loaded = np.load(BytesIO(answer.content))
            arrays.append(loaded["arr_0"] if "compress" in path else loaded)
        assert arrays[0].dtype == arrays[1].dtype
        np.testing.assert_array_equal(*arrays)
    both.compare("GET", both.paths(name)["series"] + "/ordered-slices")


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize(
    "path", ["preview", "image-uint8", "image-uint16", "image-int16", "rendered?window-center=100&window-width=500"]
)
def test_pictures(both: Both, name: str, path: str) -> None:
    ours, theirs = both.ask("GET", f"{both.paths(name)['instance']}/{path}")
    assert ours.status_code == theirs.status_code
    if ours.status_code == 200:
        pictures = [np.asarray(Image.open(BytesIO(each.content))).astype(int) for each in (ours, theirs)]
        assert pictures[0].shape == pictures[1].shape
        assert abs(pictures[0] - pictures[1]).max() <= 1


def test_types_of_pictures(both: Both) -> None:
    path = f"{both.paths('CT_small.dcm')['instance']}/preview"
    both.compare("GET", path, headers={"Accept": "image/x-portable-arbitrarymap"})
    for accept in ("image/jpeg", "image/png", "*/*", "image/*"):
        ours, theirs = both.ask("GET", path, headers={"Accept": accept})
        assert ours.headers["content-type"] == theirs.headers["content-type"]
    both.compare("GET", f"{both.paths('test-SR.dcm')['instance']}/preview")


STUDY = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"


QUERIES: list[tuple[str, dict[str, str]]] = [
    *((level, {}) for level in ("Patient", "Study", "Series", "Instance")),
    ("study", {"PatientID": "1ct1"}),
    *(("Study", {"PatientID": text}) for text in ("1*", "%", "_CT1", "1CT1' OR 1=1 --", ".*")),
    *(("Study", {"PatientName": text}) for text in ("*CT1", "compressedsamples^ct1", "[A-Z]*")),
    *(("Study", {"StudyDate": text}) for text in ("20040101-20041231", "-20050101", "20040826")),
    *(("Series", {"Modality": text}) for text in ("CT\\MR", "ct", "??")),
    ("Study", {"StudyDescription": "E+1"}),
    ("Study", {"ModalitiesInStudy": "CT\\MR"}),
    ("Study", {"InstitutionName": "jfk*"}),
    ("Study", {"AccessionNumber": ""}),
    ("Patient", {"PatientID": "4MR1"}),
    ("Patient", {"PatientSex": "O"}),
    ("Series", {"Manufacturer": "*GE*"}),
    ("Series", {"StudyInstanceUID": STUDY}),
    ("Series", {"PatientID": "1CT1"}),
    ("Instance", {"Rows": "128"}),
    ("Instance", {"0028,0010": "64"}),
    ("Instance", {"InstanceNumber": "1"}),
    ("Instance", {"SOPInstanceUID": "*"}),
    ("Instance", {"PatientID": "4MR1", "Rows": "64"}),
    ("Instance", {"ImageType": "AXIAL"}),
]


@pytest.mark.parametrize(("level", "query"), QUERIES)
def test_find(both: Both, level: str, query: dict[str, str]) -> None:
    both.compare("POST", "/tools/find", unordered=True, json={"Level": level, "Query": query})


@pytest.mark.parametrize("form", [{}, {"Full": True}, {"Short": True}])
@pytest.mark.parametrize("level", ["Patient", "Study", "Series", "Instance"])
def test_find_expanded(both: Both, level: str, form: dict[str, bool]) -> None:
    both.compare("POST", "/tools/find", unordered=True, json={"Level": level, "Query": {}, "Expand": True, **form})


@pytest.mark.parametrize(
    "body",
    [{"Query": {}}, {"Level": "x", "Query": {}}, {"Level": "Study"}, [], {"Level": "Study", "Query": {"PatientID": 5}},
     {"Level": "Study", "Query": {"nonsense": "5"}}, {"Level": "Study", "Query": {}, "Limit": -1}],
)  # fmt: skip
def test_find_refuses(both: Both, body: Any) -> None:
    ours, theirs = both.ask("POST", "/tools/find", json=body)
    request = f"POST /tools/find {json.dumps(body)}"
    assert ours.status_code == theirs.status_code or _is_meant(request, "status")
    assert ours.status_code == 400


@pytest.mark.parametrize("text", ["1ct1", "4MR1", STUDY, "nothing", "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"])
def test_lookup(both: Both, text: str) -> None:
    both.compare("POST", "/tools/lookup", content=text.encode())


def test_bulk_content(both: Both) -> None:
    ids = [path.rpartition("/")[2] for path in both.paths("CT_small.dcm").values()]
    both.compare("POST", "/tools/bulk-content", unordered=True, json={"Resources": ids})
    both.compare(
        "POST", "/tools/bulk-content", unordered=True, json={"Resources": ids, "Level": "Study", "Short": True}
    )


def test_attached(both: Both) -> None:
    study = both.paths("rtplan.dcm")["study"]
    for method, path, content in (
        ("PUT", "metadata/1030", b"hello"), ("GET", "metadata/1030", b""), ("GET", "metadata/1031", b""),
        ("PUT", "metadata/unknown", b"x"), ("PUT", "metadata/5", b"x"), ("DELETE", "metadata/LastUpdate", b""),
        ("DELETE", "metadata/1030", b""), ("DELETE", "metadata/1030", b""), ("PUT", "attachments/1040", b"hello"),
        ("PUT", "attachments/1", b"x"), ("GET", "attachments/1040", b""), ("GET", "attachments/1040/size", b""),
        ("GET", "attachments/1040/md5", b""), ("GET", "attachments/1040/info", b""),
        ("GET", "attachments/1040/data", b""), ("GET", "attachments/1040/compressed-data", b""),
        ("GET", "attachments/1040/is-compressed", b""), ("POST", "attachments/1040/verify-md5", b""),
        ("GET", "statistics", b""), ("DELETE", "attachments/1040", b""), ("DELETE", "attachments/1040", b""),
    ):  # fmt: skip
        both.compare(
            method, f"{study}/{path}", content=content, unordered=path == "attachments/1040" and method == "GET"
        )


def test_protected(both: Both) -> None:
    path = f"{both.paths('CT_small.dcm')['patient']}/protected"
    for method, content in (("GET", b""), ("PUT", b"1"), ("GET", b""), ("PUT", b"0"), ("GET", b"")):
        both.compare(method, path, content=content)
    assert [each.status_code for each in both.ask("PUT", path, content=b"maybe")] == [400, 400]
    for answer in both.ask("POST", path, content=b"1"):
        assert (answer.status_code, answer.content, "content-type" in answer.headers) == (405, b"", False)
        assert {"GET", "PUT"} <= set(answer.headers["allow"].replace(" ", "").split(","))


def test_tools(both: Both) -> None:
    for path in ("default-encoding", "log-level", "unknown"):
        both.compare("GET", f"/tools/{path}")
    for method, path, content in (
        ("PUT", "default-encoding", b"Utf8"), ("GET", "default-encoding", b""), ("PUT", "default-encoding", b"?"),
        ("PUT", "log-level", b"verbose"), ("GET", "log-level", b""), ("PUT", "log-level", b"default"),
        ("POST", "execute-script", b"print(1)"),
    ):  # fmt: skip
        both.compare(method, f"/tools/{path}", content=content)
    for path, length in (("now", 15), ("now-local", 15)):
        assert [len(each.text) for each in both.ask("GET", f"/tools/{path}")] == [length, length]
    for level in ("patient", "study", "series", "instance", "other"):
        ours, theirs = both.ask("GET", f"/tools/generate-uid?level={level}")
        assert ours.status_code == theirs.status_code
    assert both.anor.get("/system").json().keys() >= both.orthanc.get("/system").json().keys()
    names = [
        {line.split()[0] for line in each.text.splitlines()} for each in both.ask("GET", "/tools/metrics-prometheus")
    ]
    wanted = {"orthanc_count_instances", "orthanc_count_patients", "orthanc_count_studies", "orthanc_disk_size_mb"}
    assert wanted <= names[0] & names[1]


def test_deletion(both: Both) -> None:
    """Of one of two instances in a series, then of the other: what remains above it."""
    attributes = {"PatientID": "gone", "StudyInstanceUID": "2.25.1", "SeriesInstanceUID": "2.25.2"}
    ids = []
    for number in (3, 4):
        file = ct(SOPInstanceUID=f"2.25.{number}", InstanceNumber=number, **attributes)
        ours, theirs = both.ask("POST", "/instances", content=file)
        assert ours.json() == theirs.json()
        ids.append(ours.json()["ID"])
    before = both.anor.get("/changes?last").json()["Last"]
    both.compare("DELETE", f"/instances/{ids[0]}")
    both.compare("DELETE", f"/instances/{ids[1]}")
    both.compare("GET", "/statistics")
    for client in (both.anor, both.orthanc):
        changes = client.get(f"/changes?since=0&limit={before}").json()["Changes"]
        assert not {each["ID"] for each in changes} & set(ids)


def test_changes(both: Both) -> None:
    pages = [client.get("/changes?limit=1000").json() for client in (both.anor, both.orthanc)]
    kinds = [
        sorted(
            (e["ChangeType"], e["ID"], e["Path"], e["ResourceType"])
            for e in page["Changes"]
            if "New" in e["ChangeType"]
        )
        for page in pages
    ]
    assert kinds[0] == kinds[1]
    assert pages[0]["Done"] is pages[1]["Done"] is True
    both.compare("GET", "/exports")
    both.compare("GET", "/exports?last")


def _png(array: Any) -> str:
    out = BytesIO()
    Image.fromarray(array).save(out, "png")
    return "data:image/png;base64," + b64encode(out.getvalue()).decode()


PICTURE = _png(np.arange(15, dtype=np.uint8).reshape(3, 5))
PDF = "data:application/pdf;base64," + b64encode(b"%PDF-1.4").decode()
# Made anew by each server: UIDs, dates and times, and a PatientID where none is given.
FRESH = {
    "0008,0012", "0008,0013", "0008,0018", "0008,0020", "0008,0021", "0008,0022", "0008,0023", "0008,0030", "0008,0031",
    "0008,0032", "0008,0033", "0020,000d", "0020,000e",
}  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        {"Tags": {}},
        {"Tags": {"PatientID": "P", "PatientName": "Doe^J", "0008-1030": "Study", "ImageType": "A\\B"}},
        {"Tags": {"PatientID": "P"}, "Content": PICTURE},
        {"Tags": {"PatientID": "P", "Rows": "9"}, "Content": _png(np.zeros((2, 3, 3), np.uint8))},
        {"Tags": {"PatientID": "P"}, "Content": _png(np.arange(6, dtype=np.uint16).reshape(2, 3))},
        {"Tags": {"PatientID": "P"}, "Content": PDF},
        {"Tags": {"PatientID": "P", "OtherPatientIDsSequence": [{"PatientID": "x"}]}, "Content": []},
        {"Tags": {"PatientComments": "data:text/plain;base64,QUJD"}, "InterpretBinaryTags": False},
        {"Tags": {"StudyInstanceUID": "2.25.1", "SOPInstanceUID": "2.25.3"}, "Force": True},
    ],
)
def test_create(both: Both, body: Any) -> None:
    made = []
    for client in (both.anor, both.orthanc):
        answer = client.post("/tools/create-dicom", json=body).json()
        assert answer.keys() == {"ID", "ParentPatient", "ParentSeries", "ParentStudy", "Path", "Status"}
        made.append((answer["Status"], client.get(f"{answer['Path']}/tags?short").json()))
    assert made[0][0] == made[1][0]
    ours, theirs = (tags for _, tags in made)
    fresh = FRESH | ({"0010,0020"} if "PatientID" not in str(body) else set())
    assert fresh & ours.keys() == fresh & theirs.keys()
    found = _in(*({tag: each[tag] for tag in each if tag not in fresh} for each in (ours, theirs)), "")
    assert [each for each in found if not _is_meant("POST /tools/create-dicom", each[0])] == []


def test_create_a_series_and_below_parents(both: Both) -> None:
    found = []
    for client in (both.anor, both.orthanc):
        tags = {"PatientID": "parent", "PatientName": "N", "StudyDescription": "S"}
        first = client.post("/tools/create-dicom", json={"Tags": tags, "Content": [PICTURE, PICTURE]}).json()
        series = client.get(first["Path"]).json()
        more = [series["ExpectedNumberOfInstances"], series["Status"], sorted(first), series["ID"] == first["ID"]]
        study = series["ParentStudy"]
        for parent in (study, first["ID"], client.get(f"/studies/{study}").json()["ParentPatient"]):
            made = client.post("/tools/create-dicom", json={"Tags": {}, "Parent": parent, "Content": PDF}).json()
            parents = [made["ParentStudy"] == study, made["ParentSeries"] == first["ID"]]
            simple = client.get(f"{made['Path']}/simplified-tags").json()
            more.append([parents, simple["PatientName"], simple.get("StudyDescription")])
        found.append(more)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "body",
    [[], {"Tags": []}, {"Tags": {"PixelData": PICTURE}}, {"Tags": {"StudyInstanceUID": "1.2"}},
     {"Tags": {"SOPInstanceUID": "1.2"}}, {"Tags": {}, "Parent": "nothing"}, {"Tags": {}, "Content": "AAAA"},
     {"Tags": {}, "Content": "data:application/pdf;base64,AAAA"}, {"Tags": {}, "Content": 5},
     {"Tags": {}, "Content": "data:image/png;base64,AAAA"}],
)  # fmt: skip
def test_create_refuses(both: Both, body: Any) -> None:
    both.compare("POST", "/tools/create-dicom", json=body)


def test_create_refuses_what_the_parent_says(both: Both) -> None:
    study = both.paths("CT_small.dcm")["study"].rpartition("/")[2]
    instance = both.paths("CT_small.dcm")["instance"].rpartition("/")[2]
    for body in (
        {"Tags": {"PatientName": "x"}, "Parent": study},
        {"Tags": {"StudyInstanceUID": "1.2"}, "Parent": study},
        {"Tags": {}, "Parent": instance},
    ):
        both.compare("POST", "/tools/create-dicom", json=body)


@pytest.mark.parametrize("name", FILES)
def test_reconstruct(both: Both, name: str) -> None:
    for path in both.paths(name).values():
        both.compare("POST", f"{path}/reconstruct")
        both.compare("GET", path)
        both.compare("POST", f"{path.rpartition('/')[0]}/nothing/reconstruct")
    both.compare("POST", "/tools/reconstruct")
    test_tags(both, name)


def test_export(both: Both) -> None:
    both.compare("POST", f"{both.paths('CT_small.dcm')['instance']}/export", content=b"/tmp/nothing.dcm")


@pytest.mark.parametrize("name", ["CT_small.dcm", "rtplan.dcm", "test-SR.dcm"])
def test_file_as_xml(both: Both, name: str) -> None:
    answers = both.ask("GET", f"{both.paths(name)['instance']}/file", headers={"Accept": "application/dicom+xml"})
    assert [each.headers["content-type"] for each in answers] == ["application/dicom+xml"] * 2
    ours, theirs = (flat(ET.fromstring(each.content)) for each in answers)
    public = [{at for at in each if int(at.rpartition("/")[2][:4], 16) % 2 == 0} for each in (ours, theirs)]
    assert public[0] == public[1]
