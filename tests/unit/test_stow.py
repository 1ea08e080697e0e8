"""Store requests and responses."""

import json
from typing import Any

import pydicom
import pytest

from dicomweb.errors import (
    BadDicom,
    BadRequest,
    Conflict,
    Forbidden,
    IdentityMismatch,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
)
from dicomweb.stow import COERCED, Outcome, failed, part_is_dicom, request_boundary, response, status

ROOT = "https://pacs.example/dicom-web"
STORED = Outcome("1.2.840.10008.5.1.4.1.1.2", "1.2.3.1", "1.2.3", "1.2.4")
WARNED = Outcome("1.2.840.10008.5.1.4.1.1.2", "1.2.3.2", "1.2.3", "1.2.4", warning_reason=COERCED)
REFUSED = Outcome("1.2.840.10008.5.1.4.1.1.2", "1.2.3.3", "1.2.3", "1.2.4", failure_reason=0x0111)
UNKNOWN = Outcome(failure_reason=0xC000, comment="cut\r\noff \\ here " + "x" * 100)


def answer(outcomes: list[Outcome], study: str | None = None) -> tuple[int, dict[str, Any]]:
    code, body = response(outcomes, ROOT + "/", study)
    text = body.decode()
    dataset = pydicom.Dataset.from_json(text)  # the standard's own model reads it
    assert json.loads(dataset.to_json()).keys() == json.loads(text).keys()
    assert list(json.loads(text)) == sorted(json.loads(text))
    return code, json.loads(text)


def test_all_stored() -> None:
    code, dataset = answer([STORED, STORED])
    assert code == 200
    assert dataset["00081190"] == {"vr": "UR", "Value": [f"{ROOT}/studies/1.2.3"]}
    assert dataset["00081199"]["vr"] == "SQ"
    assert dataset["00081199"]["Value"][0] == {
        "00081150": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2"]},
        "00081155": {"vr": "UI", "Value": ["1.2.3.1"]},
        "00081190": {"vr": "UR", "Value": [f"{ROOT}/studies/1.2.3/series/1.2.4/instances/1.2.3.1"]},
    }
    assert len(dataset["00081199"]["Value"]) == 2
    assert "00081198" not in dataset
    assert "0008119A" not in dataset


def test_some_stored() -> None:
    code, dataset = answer([UNKNOWN, STORED, REFUSED, WARNED], "1.2.3")
    assert code == 202
    stored = dataset["00081199"]["Value"]
    assert [item["00081155"]["Value"] for item in stored] == [["1.2.3.1"], ["1.2.3.2"]]
    assert stored[1]["00081196"] == {"vr": "US", "Value": [0xB000]}
    (refused,) = dataset["00081198"]["Value"]
    assert refused["00081197"] == {"vr": "US", "Value": [0x0111]}
    assert refused["00081155"]["Value"] == ["1.2.3.3"]
    assert "00081190" not in refused
    (unknown,) = dataset["0008119A"]["Value"]
    assert unknown.keys() == {"00000902", "00081197"}
    comment = unknown["00000902"]["Value"][0]
    assert comment == "part 1: cut off / here\u2026"


def test_warning_alone_is_202() -> None:
    assert status([WARNED]) == 202


def test_nothing_stored() -> None:
    code, dataset = answer([REFUSED, UNKNOWN], "1.2.3")
    assert code == 409
    assert dataset["00081190"] == {"vr": "UR"}
    assert "00081199" not in dataset


def test_no_single_study_no_url() -> None:
    other = Outcome("1.2", "1.5.1", "1.5", "1.6")
    assert answer([STORED, other])[1]["00081190"] == {"vr": "UR"}
    assert answer([STORED, REFUSED])[1]["00081190"]["Value"] == [f"{ROOT}/studies/1.2.3"]


def test_missing_class_and_parents() -> None:
    _, dataset = answer([Outcome(None, "1.2.9", failure_reason=0xA700), Outcome("1.2", "1.2.8")])
    assert dataset["00081198"]["Value"][0]["00081150"] == {"vr": "UI"}
    assert dataset["00081199"]["Value"][0]["00081190"] == {"vr": "UR"}


def test_a_request_without_instances() -> None:
    with pytest.raises(BadRequest):
        response([], ROOT, None)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BadDicom("x"), 0xC000),
        (BadDicom("x", failure_reason=0xC122), 0xC122),
        (Conflict("x"), 0x0111),
        (IdentityMismatch("x"), 0xA900),
        (TooLarge("x"), 0xA700),
        (Unavailable("x"), 0xA700),
        (Forbidden("x"), 0x0124),
        (UnsupportedMediaType("x"), 0x0110),
        (NotFound("x"), 0x0110),
    ],
)
def test_reasons(error: Any, reason: int) -> None:
    outcome = failed(error, sop_instance="1.2")
    assert (outcome.failure_reason, outcome.comment, outcome.sop_instance) == (reason, "x", "1.2")


def test_request_types() -> None:
    assert request_boundary("application/dicom") is None
    assert request_boundary("application/dicom; transfer-syntax=1.2.840.10008.1.2.1") is None
    assert request_boundary('multipart/related; type="application/dicom"; boundary="a b"') == b"a b"
    assert request_boundary("Multipart/Related; boundary=x; type=application/dicom") == b"x"
    assert request_boundary("multipart/related; boundary=x") == b"x"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/dicom+json",
        'multipart/related; type="application/dicom+json"; boundary=x',
        "multipart/related; type=x; boundary=x",
    ],
)
def test_unsupported_request_types(header: str | None) -> None:
    with pytest.raises(UnsupportedMediaType):
        request_boundary(header)


@pytest.mark.parametrize(
    "header", ["nonsense", "multipart/related; type=application/dicom", 'multipart/related; boundary="']
)
def test_malformed_request_types(header: str) -> None:
    with pytest.raises(BadRequest):
        request_boundary(header)


def test_part_types() -> None:
    assert part_is_dicom({})
    assert part_is_dicom({"content-type": "Application/DICOM; transfer-syntax=1.2"})
    assert not part_is_dicom({"content-type": "application/dicom+json"})
    assert not part_is_dicom({"content-type": "?"})
