"""What an archive answers to a Store transaction, for the one who asked it (PS3.18 10.5.3, annex I)."""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

# A private block in the items of an Anor's answer to parts with a Content-Digest: the SHA-256 of the file that it holds
# under the SOP Instance UID, as it was received; empty where that is another file than the one that was sent.
PRIVATE_CREATOR: Final = "ANOR STORE 1.0"
CREATOR_TAG: Final = "00090010"
SHA256_TAG: Final = "00091001"

_SOP_INSTANCE, _REASON, _COMMENT = "00081155", "00081197", "00000902"
_REFERENCED, _FAILED = "00081199", "00081198"
_MAX_COMMENT: Final = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an instance was not stored: a status code (PS3.18 table I.2-2), 0 where none was given, and words."""

    reason: int = 0
    comment: str = ""


@dataclass(frozen=True, slots=True)
class StoreAnswer:
    """What became of the instances by SOP Instance UID.

    `stored` has the SHA-256 of what the archive holds, b"" where it says that it holds something else, None where it
    says nothing of it.
    """

    stored: dict[str, bytes | None] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)

    @property
    def silent(self) -> bool:
        """Whether the answer names no instance: the HTTP status alone has to say it."""
        return not (self.stored or self.failed)


def read_answer(body: bytes) -> StoreAnswer:
    """The Store Instances Response in DICOM JSON; a silent one where the body is none."""
    try:
        dataset = orjson.loads(body)
    except orjson.JSONDecodeError:
        return StoreAnswer()
    if isinstance(dataset, list) and len(dataset) == 1:  # some archives wrap it
        dataset = dataset[0]
    answer = StoreAnswer()
    for item in _items(dataset, _REFERENCED):
        if uid := _text(item, _SOP_INSTANCE):
            answer.stored[uid] = _digest(item)
    for item in _items(dataset, _FAILED):
        if uid := _text(item, _SOP_INSTANCE):
            reason = _first(item, _REASON)
            answer.failed[uid] = Failure(reason if isinstance(reason, int) else 0, _text(item, _COMMENT)[:_MAX_COMMENT])
    return answer


def content_digest(sha256: bytes) -> str:
    """The value of a Content-Digest field (RFC 9530 2)."""
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


def read_content_digest(value: str) -> bytes | None:
    """The SHA-256 in a Content-Digest field, None where it has none that can be read."""
    for member in value.split(","):
        name, _, rest = member.strip().partition("=")
        if name == "sha-256":
            return _decoded(rest.split(";")[0].strip().strip(":"))
    return None


def _decoded(text: str) -> bytes | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == 32 else None


def digest_block(sha256: bytes) -> dict[str, dict[str, Any]]:
    """The private block of an item, in DICOM JSON."""
    value = {"InlineBinary": base64.b64encode(sha256).decode()} if sha256 else {}
    return {CREATOR_TAG: {"vr": "LO", "Value": [PRIVATE_CREATOR]}, SHA256_TAG: {"vr": "OB", **value}}


def _digest(item: dict[str, Any]) -> bytes | None:
    if _text(item, CREATOR_TAG) != PRIVATE_CREATOR:
        return None
    member = item.get(SHA256_TAG)
    found = member.get("InlineBinary") if isinstance(member, dict) else None
    return (_decoded(found) if isinstance(found, str) else None) or b""


def _items(dataset: Any, tag: str) -> Iterator[dict[str, Any]]:
    member = dataset.get(tag) if isinstance(dataset, dict) else None
    values = member.get("Value") if isinstance(member, dict) else None
    for item in values if isinstance(values, list) else ():
        if isinstance(item, dict):
            yield item


def _first(item: dict[str, Any], tag: str) -> Any:
    member = item.get(tag)
    values = member.get("Value") if isinstance(member, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _text(item: dict[str, Any], tag: str) -> str:
    found = _first(item, tag)
    return found.strip("\0 ") if isinstance(found, str) else ""
