"""What an old Orthanc cannot say yet: labels, metadata, any order, parts of answers, pages, and hostile questions."""

import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.files import ct, new_uid
from tests.support import running_server


class Filled:
    """A server with three patients, five studies and seven instances."""

    def __init__(self, web: httpx.Client) -> None:
        self.web = web
        self.studies: list[str] = []
        self.patients: list[str] = []
        self.instances: list[str] = []
        for patient, date, count in (
            ("A", "2021", 1),
            ("B", "2024", 3),
            ("B", "2022", 1),
            ("C", "", 1),
            ("C", "2023", 1),
        ):
            study, series = new_uid(), new_uid()
            for number in range(count, 0, -1):
                answer = web.post(
                    "/instances",
                    content=ct(
                        PatientID=f"{patient}-1", PatientName=f"{patient.lower()}^X", StudyInstanceUID=study,
                        SeriesInstanceUID=series, InstanceNumber=number, StudyDate=f"{date}0101" if date else "",
                        Modality="MR" if patient == "C" else "CT", KVP=str(80 + 10 * number),
                    ),
                ).json()  # fmt: skip
                self.instances.append(answer["ID"])
            self.studies.append(answer["ParentStudy"])
            if answer["ParentPatient"] not in self.patients:
                self.patients.append(answer["ParentPatient"])

    def find(self, level: str, query: dict[str, str] | None = None, **more: Any) -> list[Any]:
        answer = self.web.post("/tools/find", json={"Level": level, "Query": query or {}, **more})
        assert answer.status_code == 200, answer.text
        found: list[Any] = answer.json()
        return found

    def count(self, level: str, **more: Any) -> int:
        answer = self.web.post("/tools/count-resources", json={"Level": level, "Query": {}, **more})
        return int(answer.json()["Count"])


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    with (
        running_server(tmp_path_factory.mktemp("find"), workers=1, user_metadata="ward=1024") as server,
        httpx.Client(base_url=server.url, timeout=60) as web,
    ):
        yield Filled(web)


def test_labels(filled: Filled) -> None:
    first, second, third, *_ = filled.studies
    for study, labels in ((first, ("x", "y")), (second, ("y",)), (third, ("z",))):
        for label in labels:
            filled.web.put(f"/studies/{study}/labels/{label}")
    expected = {
        ("All", "x,y"): [first], ("All", "y"): [first, second], ("Any", "x,z"): [first, third], ("All", "q"): [],
        ("None", "y,z"): filled.studies[3:], ("None", ""): filled.studies[3:], ("Any", ""): filled.studies,
    }  # fmt: skip
    for (rule, text), studies in expected.items():
        labels = [label for label in text.split(",") if label]
        assert filled.find("Study", Labels=labels, LabelsConstraint=rule) == studies
        assert filled.count("Study", Labels=labels, LabelsConstraint=rule) == len(studies)
    assert filled.web.get("/tools/labels").json() == ["x", "y", "z"]
    assert filled.web.get(f"/studies/{first}").json()["Labels"] == ["x", "y"]
    body = {"Level": "Study", "Query": {}, "Labels": ["a b"]}
    assert filled.web.post("/tools/find", json=body).status_code == 400


def test_metadata(filled: Filled) -> None:
    for study, ward in zip(filled.studies, ("9", "10", "x"), strict=False):
        filled.web.put(f"/studies/{study}/metadata/ward", content=ward.encode())
    assert filled.find("Study", MetadataQuery={"ward": "1*"}) == [filled.studies[1]]
    assert filled.find("Study", MetadataQuery={"1024": "*"}) == filled.studies[:3]
    assert filled.find("Study", MetadataQuery={"ward": "%"}) == []
    order = [{"Type": "MetadataAsInt", "Key": "ward", "Direction": "ASC"}]
    assert filled.find("Study", OrderBy=order)[:3] == [filled.studies[0], filled.studies[1], filled.studies[2]]
    order = [{"Type": "Metadata", "Key": "ward", "Direction": "DESC"}]
    assert filled.find("Study", OrderBy=order)[:3] == [filled.studies[2], filled.studies[0], filled.studies[1]]
    syntax = {"TransferSyntax": "1.2.840.10008.1.2.1"}
    assert len(filled.find("Instance", MetadataQuery=syntax)) == 7
    body = {"Level": "Study", "Query": {}, "MetadataQuery": {"nothing": "x"}}
    assert filled.web.post("/tools/find", json=body).status_code == 400


def test_order_and_pages(filled: Filled) -> None:
    by_date = [{"Type": "DicomTag", "Key": "StudyDate", "Direction": "DESC"}]
    dates = filled.find("Study", OrderBy=by_date, ResponseContent=["MainDicomTags"])
    shown = [each["MainDicomTags"]["StudyDate"] for each in dates]
    assert shown == ["20240101", "20230101", "20220101", "20210101", ""]
    pages = [filled.find("Study", OrderBy=by_date, Since=n, Limit=2) for n in (0, 2, 4, 6)]
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert [each for page in pages for each in page] == [each["ID"] for each in dates]
    by_number = [
        {"Type": "DicomTag", "Key": "0010,0020", "Direction": "DESC"},
        {"Type": "DicomTagAsInt", "Key": "InstanceNumber", "Direction": "DESC"},
    ]
    found = filled.find("Instance", {"PatientID": "B-1"}, OrderBy=by_number, RequestedTags=["InstanceNumber"])
    assert [each["RequestedTags"]["InstanceNumber"] for each in found] == ["3", "2", "1", "1"]
    by_voltage = [{"Type": "DicomTagAsFloat", "Key": "KVP", "Direction": "DESC"}]
    assert filled.find("Instance", OrderBy=by_voltage)[0] == filled.instances[1]
    for bad in ([{"Type": "X", "Key": "KVP"}], [{"Type": "DicomTag", "Key": "nothing"}], ["KVP"]):
        assert filled.web.post("/tools/find", json={"Level": "Study", "Query": {}, "OrderBy": bad}).status_code == 400


def test_order_by_what_is_below(filled: Filled) -> None:
    """By what RequestedTags shows of the first below; what resources of the level never have does not order them."""
    for level, tag in (("Study", "Modality"), ("Patient", "StudyDate"), ("Study", "KVP"), ("Series", "KVP"),
                       ("Patient", "NumberOfPatientRelatedInstances"), ("Study", "ModalitiesInStudy")):  # fmt: skip
        for direction in ("ASC", "DESC"):
            order = [{"Type": "DicomTag", "Key": tag, "Direction": direction}]
            found = filled.find(level, OrderBy=order, RequestedTags=[tag])
            shown = [each["RequestedTags"].get(tag, "") for each in found]
            given = [value for value in shown if value]
            assert len(set(given)) > 1
            assert given == sorted(given, reverse=direction == "DESC") == shown[: len(given)]
    for tag in ("NumberOfStudyRelatedSeries", "SOPInstanceUID"):
        order = [{"Type": "DicomTag", "Key": tag, "Direction": "DESC"}]
        assert sorted(filled.find("Patient", OrderBy=order)) == sorted(filled.patients)


def test_metadata_of_the_archive(filled: Filled) -> None:
    """What is told of a resource is found; what resources of the level never have finds none."""
    for level, path, named in (
        ("Instance", f"/instances/{filled.instances[0]}", ("Origin", "RemoteIP", "ReceptionDate", "IndexInSeries")),
        ("Series", filled.find("Series", Expand=True)[0], ("LastUpdate", "MainDicomTagsSignature")),
        ("Study", f"/studies/{filled.studies[0]}", ("LastUpdate", "MainDicomTagsSignature")),
        ("Patient", f"/patients/{filled.patients[0]}", ("LastUpdate", "MainDicomTagsSignature")),
    ):
        place = path if isinstance(path, str) else f"/series/{path['ID']}"
        told = filled.web.get(f"{place}/metadata?expand").json()
        for name in named:
            query = {name: told[name]}
            assert place.rsplit("/", 1)[1] in filled.find(level, MetadataQuery=query), name
            assert filled.find(level, MetadataQuery={name: told[name] + "x"}) == []
            order = [{"Type": "Metadata", "Key": name, "Direction": "DESC"}]
            assert len(filled.find(level, OrderBy=order)) == len(filled.find(level))
    for level in ("Patient", "Study", "Series"):
        for name in ("Origin", "ReceptionDate", "TransferSyntax", "CalledAET", "PixelDataOffset"):
            assert filled.find(level, MetadataQuery={name: "*"}) == []
            order = [{"Type": "Metadata", "Key": name, "Direction": "ASC"}]
            assert filled.find(level, OrderBy=order) == filled.find(level)
    query = {"HttpUsername": ""}
    assert len(filled.find("Instance", MetadataQuery=query)) == len(filled.instances)
    body = {"Level": "Instance", "Query": {}, "MetadataQuery": {"PixelDataOffset": "1"}}
    assert filled.web.post("/tools/find", json=body).status_code == 400


def test_parents_and_lower_levels(filled: Filled) -> None:
    assert filled.find("Study", ParentPatient=filled.patients[1]) == filled.studies[1:3]
    assert len(filled.find("Instance", ParentStudy=filled.studies[1])) == 3
    assert filled.find("Study", ParentPatient="0" * 8 + "-00000000" * 4) == []
    assert filled.find("Patient", {"Modality": "MR"}) == [filled.patients[2]]
    assert filled.find("Study", {"KVP": "110"}) == [filled.studies[1]]
    assert filled.find("Study", {"Rows": "4", "Modality": "MR"}) == filled.studies[3:]
    wrong = {"Level": "Patient", "Query": {}, "ParentStudy": filled.studies[0]}
    assert filled.web.post("/tools/find", json=wrong).status_code == 400


def test_parts(filled: Filled) -> None:
    (found,) = filled.find("Study", {"PatientID": "a-1"}, ResponseContent=["Parent", "Metadata"])
    assert found.keys() == {"ID", "Type", "ParentPatient", "Metadata"}
    found = filled.find("Patient", RequestedTags=["NumberOfPatientRelatedInstances", "PatientSex"], Short=True)[1]
    assert found["RequestedTags"] == {"0020,1204": "4", "0010,0040": "F"}
    one = filled.web.get(f"/studies/{filled.studies[1]}?requested-tags=ModalitiesInStudy;KVP;0008,0062&full").json()
    assert one["RequestedTags"]["0008,0061"]["Value"] == "CT"
    assert one["RequestedTags"]["0018,0060"]["Value"] == "110"
    assert filled.web.get(f"/studies/{filled.studies[1]}/instances?expand=false").json()[0] in filled.instances
    (listed,) = filled.web.get("/series?since=1&limit=1&response-content=Status;Attachments").json()
    assert listed.keys() == {"ID", "Type", "Status", "ExpectedNumberOfInstances", "Attachments"}
    assert filled.web.get("/series?response-content=Everything").status_code == 400
    assert filled.web.get(f"/studies/{filled.studies[1]}?requested-tags=nothing").status_code == 400


def test_case(filled: Filled) -> None:
    assert filled.find("Study", {"PatientName": "A^x"}) == [filled.studies[0]]
    assert filled.find("Study", {"PatientName": "A^x"}, CaseSensitive=True) == []
    assert filled.find("Study", {"PatientName": "a^X"}, CaseSensitive=True) == [filled.studies[0]]
    assert filled.find("Study", {"PatientID": "a-1", "StudyDescription": "THORAX*"}) == [filled.studies[0]]
    assert filled.find("Study", {"PatientID": "a-1"}, CaseSensitive=True) == []
    counted = {"Level": "Study", "Query": {}, "CaseSensitive": True}
    assert filled.web.post("/tools/count-resources", json=counted).status_code == 400


@pytest.mark.parametrize("text", ["%", "_", "\\", "'; DROP TABLE study; --", "[a-z]+", ".*", "\\\\%", "😀", "$1"])
def test_values_are_text(filled: Filled, text: str) -> None:
    for tag in ("PatientID", "PatientName", "StudyDescription", "KVP", "0009,1001"):
        answer = filled.web.post("/tools/find", json={"Level": "Study", "Query": {tag: text}})
        assert answer.status_code in (200, 400)
        assert answer.status_code == 400 or answer.json() == ([] if text != "\\" else filled.studies)


def test_too_much(filled: Filled) -> None:
    for query in ({"PatientID": "\\".join(map(str, range(2000)))}, {"PatientID": "x" * 2000}, {"PatientID": "a\0b"}):
        answer = filled.web.post("/tools/find", json={"Level": "Study", "Query": query})
        assert (answer.status_code, answer.json()["OrthancStatus"]) == (400, 3)
    deep = b'{"Level":' + b"[" * 100_000
    assert filled.web.post("/tools/find", content=deep).json()["OrthancStatus"] == 28
    tags = {f"0009{n:04X}": "x" for n in range(200)}
    assert filled.web.post("/tools/find", json={"Level": "Study", "Query": tags}).status_code == 400


def test_instances_tags_and_shared_tags(filled: Filled) -> None:
    study = filled.studies[1]
    every = filled.web.get(f"/studies/{study}/instances-tags?simplify").json()
    assert {tags["KVP"] for tags in every.values()} == {"90", "100", "110"}
    shared = filled.web.get(f"/studies/{study}/shared-tags?simplify").json()
    assert "KVP" not in shared
    assert "SOPInstanceUID" not in shared
    assert (shared["PatientID"], shared["Rows"]) == ("B-1", "4")


def test_bulk(filled: Filled) -> None:
    web = filled.web
    ids = [web.post("/instances", content=ct(PatientID=f"bulk-{os.urandom(4).hex()}")).json() for _ in range(3)]
    resources = [ids[0]["ParentStudy"], ids[1]["ID"], "nothing"]
    found = web.post("/tools/bulk-content", json={"Resources": resources, "Full": True}).json()
    assert {each["ID"] for each in found} == set(resources[:2])
    assert all("Metadata" in each and "0020,000d" in each["MainDicomTags"] for each in found if each["Type"] == "Study")
    named = {"Level": "Series", "ID": ids[2]["ParentSeries"]}
    deleted = web.post("/tools/bulk-delete", json={"Resources": [*resources, named]})
    assert (deleted.status_code, deleted.text) == (200, "")
    assert all(web.get(f"/patients/{each['ParentPatient']}").status_code == 404 for each in ids)
    for bad in ({}, {"Resources": 5}, {"Resources": [5]}, {"Resources": [{"Level": "x", "ID": "y"}]}):
        assert web.post("/tools/bulk-delete", json=bad).status_code == 400


def test_bulk_content_of_a_level(filled: Filled) -> None:
    """As in Orthanc: resources lead up and down to those of the level that is of interest."""
    web, patient, study = filled.web, filled.patients[1], filled.studies[1]
    (series,) = web.get(f"/studies/{study}").json()["Series"]
    instance = web.get(f"/series/{series}").json()["Instances"][0]

    def ids(level: str, *resources: str) -> set[str]:
        found = web.post("/tools/bulk-content", json={"Resources": resources, "Level": level, "Metadata": False}).json()
        assert {each["Type"] for each in found} <= {level}
        assert not any("Metadata" in each for each in found)
        return {each["ID"] for each in found}

    assert ids("Study", patient) == set(filled.studies[1:3])
    assert ids("Instance", patient) == set(filled.instances[1:5])
    assert ids("Instance", series, instance, "nothing") == set(filled.instances[1:4])
    for below in (study, series, instance):
        assert ids("Patient", below) == {patient}
    assert ids("Series", study, instance) == {series}
    for bad in (b"", b"{}", b"null", b'{"Resources": "x"}', b'{"Resources": [], "Level": "x"}'):
        assert web.post("/tools/bulk-content", content=bad).status_code == 400


def test_requested_tags_that_are_not_there(filled: Filled) -> None:
    study = filled.studies[1]
    for form, name, nothing in (
        ("", "RequestAttributesSequence", None),
        ("&short", "0040,0275", None),
        ("&full", "0040,0275", {"Name": "RequestAttributesSequence", "Type": "Null", "Value": None}),
    ):
        path = f"/studies/{study}?requested-tags=RequestAttributesSequence;StudyDate{form}"
        found = filled.web.get(path).json()["RequestedTags"]
        assert len(found) == 2
        assert found[name] == nothing
