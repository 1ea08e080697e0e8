"""Revisions of what is attached to resources: who writes says which one they have seen (RFC 9110 13.1.1)."""

import hashlib
from dataclasses import dataclass
from typing import Any

from dicomweb.errors import NotFound, RevisionConflict


@dataclass(frozen=True, slots=True)
class Condition:
    """What a writer demands. `match`: the entity tag they have seen; `required`: nothing is overwritten without one."""

    match: str | None = None
    required: bool = False


def entity_tag(revision: int, md5: bytes) -> str:
    """Orthanc's entity tag, without the quotes."""
    return f"{revision}-{md5.hex()}"


def text_md5(value: str) -> bytes:
    """The digest that the entity tag of a text names."""
    return hashlib.md5(value.encode(), usedforsecurity=False).digest()


def revision_of(row: Any, what: str) -> int:
    """The revision that a write made, from the row of its function; raises NotFound, RevisionConflict."""
    if row["outcome"] == "missing":
        raise NotFound(f"no such resource or {what}")
    if row["outcome"] == "conflict":
        raise RevisionConflict(f"the {what} has another revision than If-Match names", attribute="If-Match")
    revision: int = row["revision"]
    return revision
