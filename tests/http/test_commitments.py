"""Storage commitment by web (PS3.18 chapter 13)."""

import time
from io import BytesIO
from typing import Any

import httpx
import pytest
from pydicom import dcmread

from tests.files import ct, new_uid
from tests.http.bodies import ROOT, problem, store
from tests.support import RunningServer

CT = "1.2.840.10008.5.1.4.1.1.2"


def asked(*references: tuple[str, str], **more: Any) -> dict[str, Any]:
    items = [{"00081150": {"vr": "UI", "Value": [c]}, "00081155": {"vr": "UI", "Value": [i]}} for c, i in references]
    return {"00081199": {"vr": "SQ", "Value": items}} | more


def said(answer: httpx.Response) -> tuple[set[str], dict[str, int]]:
    """The committed instances, and the others with their reasons."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+json")
    [found] = answer.json()

    def uid(item: Any) -> str:
        return str(item["00081155"]["Value"][0])

    return (
        {uid(item) for item in found.get("00081199", {}).get("Value", ())},
        {uid(item): item["00081197"]["Value"][0] for item in found.get("00081198", {}).get("Value", ())},
    )


def stored(web: httpx.Client) -> tuple[str, str]:
    """A stored instance: its path and its UID."""
    ds = dcmread(BytesIO(file := ct()), stop_before_pixels=True)
    assert store(web, file).status_code == 200
    return f"{ROOT}/studies/{ds.StudyInstanceUID}", ds.SOPInstanceUID


def request(web: httpx.Client, transaction: str, body: Any) -> httpx.Response:
    return web.post(
        f"{ROOT}/commitment-requests/{transaction}", json=body, headers={"content-type": "application/dicom+json"}
    )


def test_what_is_here_and_what_is_not(web: httpx.Client) -> None:
    (path, one), (_, two), missing, transaction = stored(web), stored(web), new_uid(), new_uid()
    body = asked((CT, one), (CT, one), ("1.2.840.10008.5.1.4.1.1.4", two), (CT, missing))
    answer = request(web, transaction, body)
    assert said(answer) == ({one}, {two: 0x0119, missing: 0x0112})
    assert answer.json()[0]["00081195"]["Value"] == [transaction]
    again = web.get(f"{ROOT}/commitment-requests/{transaction}")
    assert again.json() == answer.json()
    assert web.delete(path).status_code == 204
    assert said(web.get(f"{ROOT}/commitment-requests/{transaction}")) == (
        set(),
        {one: 0x0112, two: 0x0119, missing: 0x0112},
    )


def test_a_transaction_is_asked_for_once(web: httpx.Client) -> None:
    (_, one), transaction = stored(web), new_uid()
    assert request(web, transaction, asked((CT, one))).status_code == 200
    second = request(web, transaction, asked((CT, one)))
    assert (second.status_code, problem(second)) == (409, "transaction-in-use")


@pytest.mark.parametrize(
    ("body", "attribute"),
    [
        ({}, "ReferencedSOPSequence"),
        (asked(), "ReferencedSOPSequence"),
        (asked((CT, "x")), "ReferencedSOPSequence"),
        ({"00081199": {"vr": "SQ", "Value": [{}]}}, "ReferencedSOPSequence"),
        ({"00081199": {"vr": "SQ", "Value": [{"00081150": {"vr": "UI", "Value": [1]}}]}}, None),
        (asked((CT, "1.2.3"), **{"00081195": {"vr": "UI", "Value": ["1.2"]}}), "TransactionUID"),
    ],
)
def test_requests_that_are_refused(web: httpx.Client, body: Any, attribute: str | None) -> None:
    transaction = new_uid()
    refused = request(web, transaction, body)
    assert refused.status_code == 400
    if attribute is not None:
        assert refused.json()["attribute"] == attribute
    assert web.get(f"{ROOT}/commitment-requests/{transaction}").status_code == 404


def test_refusals_of_the_address_and_the_type(web: httpx.Client) -> None:
    assert web.get(f"{ROOT}/commitment-requests/x").status_code == 400
    plain = web.post(f"{ROOT}/commitment-requests/{new_uid()}", content=b"{}", headers={"content-type": "text/plain"})
    assert (plain.status_code, problem(plain)) == (415, "unsupported-media-type")
    many = asked(*((CT, f"1.2.{n}") for n in range(10_001)))
    too_many = request(web, new_uid(), many)
    assert (too_many.status_code, problem(too_many)) == (413, "too-large")
    other = request(web, new_uid(), asked((CT, "1.2"))).request
    assert web.get(other.url, headers={"accept": "text/html"}).status_code == 406


def test_an_object_that_is_lost_is_not_committed(web: httpx.Client, server: RunningServer) -> None:
    began = time.time()
    _, one = stored(web)
    [path] = [
        path
        for path in (server.data / "objects").rglob("*")
        if path.is_file() and path.stat().st_mtime > began - 1 and one.encode() in path.read_bytes()[:1000]
    ]
    path.unlink()
    assert said(request(web, new_uid(), asked((CT, one)))) == (set(), {one: 0x0110})
