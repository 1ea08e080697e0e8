"""What two servers agree on before files go in buckets, as by Orthanc's transfers accelerator plug-in.

A bucket is some megabytes: several small files one after the other, or a part of a large one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from dicomweb.errors import BadRequest, TooLarge
from dicomweb.uids import is_orthanc_id

Compression = Literal["none", "gzip"]
# An instance by its Orthanc identifier, offset in its file, bytes.
Piece = tuple[str, int, int]
# Number of a bucket, offset in it, bytes.
Place = tuple[int, int, int]

MAX_INSTANCES: Final = 100_000
MAX_NAMED: Final = 1000  # instances that one request for a bucket names
_GROUPED: Final = 4 << 20  # bytes: smaller files share a bucket
_DIVIDED: Final = 8 << 20  # bytes: larger files are divided
_IN_A_BUCKET: Final = 40  # instances, so that a URL that names them has less than 2,000 characters
_SIZE: Final = re.compile(r"[0-9]{1,15}")
_MD5: Final = re.compile(r"[0-9a-fA-F]{32}")


@dataclass(frozen=True, slots=True)
class Member:
    """An instance that is transferred: its Orthanc identifier, the bytes of its file, their MD5."""

    id: str
    size: int
    md5: bytes

    def shown(self) -> dict[str, str]:
        """As the protocol has it."""
        return {"ID": self.id, "Size": str(self.size), "MD5": self.md5.hex()}


@dataclass(frozen=True, slots=True)
class Plan:
    """Instances, and the buckets that hold their files."""

    members: Sequence[Member]
    buckets: Sequence[Sequence[Piece]]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(each.size for each in self.members)

    def places(self) -> list[list[Place]]:
        """Where the parts of each file are, in its order. Raises BadRequest unless each byte is in one bucket."""
        found: dict[str, list[tuple[int, Place]]] = {each.id: [] for each in self.members}
        for number, bucket in enumerate(self.buckets):
            within = 0
            for name, offset, size in bucket:
                if name not in found:
                    raise BadRequest(f"bucket {number} has an instance that is not among Instances")
                found[name].append((offset, (number, within, size)))
                within += size
        answer = []
        for each in self.members:
            parts, end = sorted(found[each.id]), 0
            for offset, (_, _, size) in parts:
                if offset != end:
                    break
                end += size
            if end != each.size or sum(place[2] for _, place in parts) != each.size:
                raise BadRequest(f"the buckets do not hold every byte of instance {each.id} once", attribute="Buckets")
            answer.append([place for _, place in parts])
        return answer

    def shown(self, compression: Compression) -> dict[str, Any]:
        """As the protocol has it: what announces a push."""
        buckets = [
            [{"ID": name, "Offset": str(offset), "Size": str(size)} for name, offset, size in bucket]
            for bucket in self.buckets
        ]
        return {"Instances": [each.shown() for each in self.members], "Buckets": buckets, "Compression": compression}


def planned(members: Sequence[Member]) -> Plan:
    """Buckets for the files of instances."""
    buckets: list[list[Piece]] = []
    group: list[Piece] = []
    for each in members:
        if each.size >= _GROUPED:
            buckets.extend([piece] for piece in _divided(each))
            continue
        group.append((each.id, 0, each.size))
        if len(group) == _IN_A_BUCKET or sum(size for _, _, size in group) >= _GROUPED:
            buckets.append(group)
            group = []
    return Plan(members, [*buckets, group] if group else buckets)


def _divided(member: Member) -> Iterator[Piece]:
    count = -(-member.size // _DIVIDED)
    length = -(-member.size // count)
    for offset in range(0, member.size, length):
        yield member.id, offset, min(length, member.size - offset)


def read_members(given: Any) -> list[Member]:
    """The instances that the other side names. Raises BadRequest, TooLarge."""
    found = [_member(each) for each in _objects(given, "Instances")]
    if len(found) > MAX_INSTANCES:
        raise TooLarge(f"a transfer has at most {MAX_INSTANCES} instances")
    if len({each.id for each in found}) != len(found):
        raise BadRequest("Instances has one of them twice", attribute="Instances")
    return found


def read_plan(given: Mapping[str, Any]) -> Plan:
    """The announcement of a push. Raises BadRequest, TooLarge."""
    members = read_members(given.get("Instances"))
    named = given.get("Buckets")
    if not isinstance(named, list):
        raise BadRequest("Buckets is a list of lists", attribute="Buckets")
    buckets = [[_piece(each) for each in _objects(bucket, "Buckets")] for bucket in named]
    if not all(buckets):
        raise BadRequest("Buckets has one without a content", attribute="Buckets")
    return Plan(members, buckets)


def compression_of(text: Any) -> Compression:
    """A member Compression, or query parameter. Raises BadRequest."""
    if text == "gzip":
        return "gzip"
    if text == "none":
        return "none"
    raise BadRequest("Compression is gzip or none", attribute="Compression")


def _objects(given: Any, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise BadRequest(f"{name} is a list of objects", attribute=name)
    return given


def _member(given: Mapping[str, Any]) -> Member:
    md5 = given.get("MD5")
    if not isinstance(md5, str) or not _MD5.fullmatch(md5):
        raise BadRequest("MD5 is 32 hexadecimal digits", attribute="MD5")
    return Member(_name(given), _number(given, "Size", least=1), bytes.fromhex(md5))


def _piece(given: Mapping[str, Any]) -> Piece:
    return _name(given), _number(given, "Offset"), _number(given, "Size", least=1)


def _name(given: Mapping[str, Any]) -> str:
    name = given.get("ID")
    if not isinstance(name, str) or not is_orthanc_id(name):
        raise BadRequest("ID is the Orthanc identifier of an instance", attribute="ID")
    return name


def _number(given: Mapping[str, Any], name: str, least: int = 0) -> int:
    text = given.get(name)
    if not isinstance(text, str) or not _SIZE.fullmatch(text) or int(text) < least:
        raise BadRequest(f"{name} is a number of bytes, as text", attribute=name)
    return int(text)
