"""Metadata and search results as XML, and metadata of some attributes."""

from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file

from tests.files import dataset, encoded, new_uid
from tests.http.bodies import ROOT, problem, store
from tests.http.test_wado import parts

SPACE = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
XML = 'multipart/related; type="application/dicom+xml"'


@pytest.fixture
def series(web: httpx.Client) -> str:
    """Three instances with a sequence; the path of their series."""
    study, uid = new_uid(), new_uid()
    item = Dataset()
    item.RequestedProcedureID, item.ScheduledProcedureStepID = "R-1", "S-1"
    files = [
        encoded(
            dataset(StudyInstanceUID=study, SeriesInstanceUID=uid, InstanceNumber=n, RequestAttributesSequence=[item])
        )
        for n in (1, 2, 3)
    ]
    assert store(web, *files).status_code == 200
    return f"{ROOT}/studies/{study}/series/{uid}"


def model(document: bytes) -> dict[str, tuple[str | None, list[str | None]]]:
    """VR and values of the attributes of an XML document at its top."""
    root = ET.fromstring(document)
    assert root.tag == f"{SPACE}NativeDicomModel"
    return {
        str(each.get("tag")): (each.get("vr"), [value.text for value in each.findall(f"{SPACE}Value")]) for each in root
    }


def test_metadata_as_xml_at_three_levels(web: httpx.Client, series: str) -> None:
    one = web.get(f"{series}/instances").json()[0]["00080018"]["Value"][0]
    for place, count in ((series.partition("/series")[0], 3), (series, 3), (f"{series}/instances/{one}", 1)):
        json = web.get(f"{place}/metadata").json()
        for accept in (XML, "application/dicom+xml;q=0.9, image/png"):
            answer = web.get(f"{place}/metadata", headers={"accept": accept})
            assert answer.status_code == 200
            if answer.headers["content-type"] == "application/dicom+xml":
                assert (count, accept) == (1, "application/dicom+xml;q=0.9, image/png")
                documents = [answer.content]
            else:
                documents = [body for _, body in parts(answer)]
            assert len(documents) == count
            for elements, document in zip(json, documents, strict=True):
                found = model(document)
                assert {tag: element["vr"] for tag, element in elements.items()} == {
                    t: vr for t, (vr, _) in found.items()
                }
                assert found["00080018"][1] == elements["00080018"]["Value"]
                assert found["00200013"][1] == [str(elements["00200013"]["Value"][0])]
            again = {"accept": accept, "if-none-match": answer.headers["etag"]}
            assert web.get(f"{place}/metadata", headers=again).status_code == 304
        assert web.get(f"{place}/metadata").headers["etag"] != answer.headers["etag"]
    refused = web.get(f"{series}/metadata", headers={"accept": "text/xml"})
    assert (refused.status_code, problem(refused)) == (406, "not-acceptable")
    assert "application/dicom+xml" in refused.json()["detail"]
    assert web.get(f"{ROOT}/studies/1.2.3/metadata", headers={"accept": XML}).status_code == 404


def test_json_stays_the_default(web: httpx.Client, series: str) -> None:
    for accept in ("*/*", "application/*", f"{XML};q=0.5, application/dicom+json", f"{XML}, */*;q=0.1"):
        kind = web.get(f"{series}/metadata", headers={"accept": accept}).headers["content-type"]
        assert kind.startswith("multipart/" if accept == f"{XML}, */*;q=0.1" else "application/dicom+json")


def test_some_attributes(web: httpx.Client, series: str) -> None:
    whole = web.get(f"{series}/metadata").json()
    always = {"00080005", "00080016", "00080018", "0020000D", "0020000E"}
    query = "includefield=PatientName,00200013&includefield=RequestAttributesSequence.RequestedProcedureID"
    answer = web.get(f"{series}/metadata?{query}")
    assert answer.headers["content-type"] == "application/dicom+json"
    for some, every in zip(answer.json(), whole, strict=True):
        assert set(some) == always | {"00100010", "00200013", "00400275"}
        assert some["00400275"]["Value"] == [{"00401001": {"vr": "SH", "Value": ["R-1"]}}]
        assert all(some[tag] == every[tag] for tag in some if tag != "00400275")
    xml = web.get(f"{series}/metadata?includefield=PatientID", headers={"accept": XML})
    assert all(set(model(body)) == always | {"00100020"} for _, body in parts(xml))
    assert xml.headers["etag"] != answer.headers["etag"]
    for query in ("includefield=all", "includefield=PatientID&includefield=all", "includefield="):
        assert web.get(f"{series}/metadata?{query}").json() == whole
    unknown = web.get(f"{series}/metadata?includefield=PatientNam")
    assert unknown.headers["warning"].startswith("299 ")
    assert set(unknown.json()[0]) == always


def test_search_results_as_xml(web: httpx.Client, series: str) -> None:
    for place in (series.partition("/series")[0] + "/series", f"{series}/instances"):
        json = web.get(place).json()
        answer = web.get(place, headers={"accept": XML})
        assert answer.status_code == 200
        documents = [model(body) for _, body in parts(answer)]
        assert [set(document) for document in documents] == [set(row) for row in json]
        uid = "0020000E" if place.endswith("/series") else "00080018"
        assert [document[uid][1] for document in documents] == [row[uid]["Value"] for row in json]
    assert web.get(f"{ROOT}/studies?PatientID={new_uid()}", headers={"accept": XML}).status_code == 204


def test_a_multi_frame_file_keeps_its_functional_groups(web: httpx.Client) -> None:
    data = Path(str(get_testdata_file("eCT_Supplemental.dcm"))).read_bytes()
    store(web, data)
    ds = dcmread(BytesIO(data), stop_before_pixels=True)
    path = f"{ROOT}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}/metadata"
    name = "PerFrameFunctionalGroupsSequence.PlanePositionSequence.ImagePositionPatient"
    [some] = web.get(f"{path}?includefield={name}").json()
    positions = [group["00209113"]["Value"][0]["00200032"]["Value"] for group in some["52009230"]["Value"]]
    expected = [
        [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]
        for group in ds.PerFrameFunctionalGroupsSequence
    ]
    assert positions == expected
