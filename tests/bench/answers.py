"""Are the answers right? An empty or a different answer is no result, however fast it came."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass

from dicomweb.uids import orthanc_ids

from .archives import Archive
from .manifest import Series, Study

_UIDS = ("00080018", "0020000E", "0020000D")
_METADATA_CACHE = "4301"  # the attachment in which Orthanc's DICOMweb plug-in keeps a series' metadata


@dataclass(frozen=True, slots=True)
class Digest:
    """What of an answer must agree: items with their UIDs, or the lengths of the parts."""

    items: int
    uids: frozenset[str]
    lengths: tuple[int, ...]

    def agrees(self, other: "Digest") -> bool:
        """Same items; parts of the same length but for padding and what a re-encoded file meta group takes."""
        pairs = zip(self.lengths, other.lengths, strict=False)
        close = len(self.lengths) == len(other.lengths) and all(abs(a - b) <= max(2, a // 100) for a, b in pairs)
        return self.items == other.items and self.uids == other.uids and close


def digest(archive: Archive, path: str, accept: str, encoding: str) -> Digest:
    """GET `path` and look at the answer. Raises RuntimeError when there is nothing in it."""
    body, content_type, content_encoding = archive.get(path, accept, encoding)
    if content_encoding == "gzip":
        body = gzip.decompress(body)
    if "json" in content_type:
        items = json.loads(body or b"[]")
        # a page may hold any of the matches, a whole answer only the same ones
        names = () if "limit=" in path else (next(i[tag]["Value"][0] for tag in _UIDS if tag in i) for i in items)
        found = Digest(len(items), frozenset(names), ())
    elif path.endswith("/rendered"):  # pictures of the same image differ in their bytes
        found = Digest(int(len(body) > 1000), frozenset(), ())
    else:
        found = Digest(0, frozenset(), tuple(sorted(_part_lengths(body, content_type))))
    if not found.items and not sum(found.lengths):
        raise RuntimeError(f"empty answer to {path}: fill the archive first")
    return found


def _part_lengths(body: bytes, content_type: str) -> list[int]:
    _, found, parameter = content_type.partition("boundary=")
    if not found:
        return [len(body)]
    delimiter = b"--" + parameter.partition(";")[0].strip().strip('"').encode()
    parts = body.split(delimiter)[1:-1]
    return [len(part) - part.find(b"\r\n\r\n") - 6 for part in parts]  # 4 of the blank line, 2 before the delimiter


def disagreements(archives: Sequence[Archive], paths: Sequence[str], accept: str, encoding: str) -> dict[str, str]:
    """By archive, why its answers are no good; Orthanc's are the reference where it takes part."""
    reference_first = sorted(archives, key=lambda archive: archive.name == "anor")
    wrong: dict[str, str] = {}
    for path in dict.fromkeys((paths[0], paths[len(paths) // 2])):
        reference: Digest | None = None
        for archive in reference_first:
            try:
                found = digest(archive, path, accept, encoding)
            except (OSError, RuntimeError, ValueError, KeyError, StopIteration) as error:
                wrong[archive.name] = f"{type(error).__name__}: {error}"
                continue
            reference = reference or found
            if not reference.agrees(found):
                wrong[archive.name] = f"{_short(found)} where the other archive gives {_short(reference)}: {path}"
    return wrong


def _short(found: Digest) -> str:
    return f"{found.items} items" if found.items else f"parts of {found.lengths[:3]} bytes"


def forget_metadata(archive: Archive, study: Study, series: Series) -> None:
    """Make Orthanc forget a series' metadata, if it keeps any."""
    name = orthanc_ids(study.patient_id, study.uid, series.uid, "").series
    archive.delete(f"/series/{name}/attachments/{_METADATA_CACHE}")
