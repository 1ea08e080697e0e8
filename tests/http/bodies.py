"""Store requests as clients build them, and what the answers say."""

from collections.abc import Iterable
from typing import Any

import httpx

ROOT = "/dicom-web"


def multipart(files: Iterable[bytes], boundary: str = "b", *, part_type: str | None = "application/dicom") -> bytes:
    """A finished multipart body."""
    head = f"--{boundary}\r\n" + (f"Content-Type: {part_type}\r\n" if part_type else "") + "\r\n"
    return b"".join(head.encode() + file + b"\r\n" for file in files) + f"--{boundary}--\r\n".encode()


def store(web: httpx.Client, *files: bytes, study: str = "", **headers: str) -> httpx.Response:
    """POST the files as one store transaction."""
    given = {"Content-Type": 'multipart/related; type="application/dicom"; boundary="b"'} | headers
    path = f"{ROOT}/studies/{study}" if study else f"{ROOT}/studies"
    return web.post(path, content=multipart(files), headers=given)


def items(answer: httpx.Response, tag: str) -> list[dict[str, Any]]:
    """The items of a sequence of the response dataset."""
    return answer.json().get(tag, {}).get("Value", [])  # type: ignore[no-any-return]


def reasons(answer: httpx.Response) -> list[int]:
    """The failure reasons, identified instances first."""
    return [item["00081197"]["Value"][0] for tag in ("00081198", "0008119A") for item in items(answer, tag)]


def stored(answer: httpx.Response) -> list[str]:
    """The SOP Instance UIDs of ReferencedSOPSequence."""
    return [item["00081155"]["Value"][0] for item in items(answer, "00081199")]


def problem(answer: httpx.Response) -> str:
    """The slug of a problem document; checks its form."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    document = answer.json()
    assert document["status"] == answer.status_code
    assert document["type"] == f"urn:anor:error:{document['slug']}"
    assert document["request"] == answer.headers["x-request-id"]
    return str(document["slug"])
