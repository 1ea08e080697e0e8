"""Filling an archive with the data of a manifest, and knowing that everything is there."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import post
from .archives import DICOMWEB, Archive
from .manifest import KINDS, Manifest
from .report import say

_BOUNDARY = "instance-of-the-benchmark"
_CONNECTIONS = 8
_ROUNDS = 5


def by_rest(path: Path) -> post.Job:
    """`POST /instances` of one file, in Orthanc's form."""

    def build() -> list[bytes]:
        body = path.read_bytes()
        return [_head("/instances", "application/dicom", len(body)), body]

    return post.Job(build)


def by_stow(paths: Sequence[Path]) -> post.Job:
    """One STOW-RS request with the given files as its parts."""

    def build() -> list[bytes]:
        parts: list[bytes] = []
        for path in paths:
            parts += (f"\r\n--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode(), path.read_bytes())
        parts.append(f"\r\n--{_BOUNDARY}--\r\n".encode())
        parts[0] = parts[0].removeprefix(b"\r\n")
        kind = f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}'
        return [_head(f"{DICOMWEB}/studies", kind, sum(map(len, parts))), *parts]

    return post.Job(build)


def _head(path: str, content_type: str, length: int) -> bytes:
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Accept: application/dicom+json, application/json;q=0.9",
        f"Content-Type: {content_type}",
        f"Content-Length: {length}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def fill(archive: Archive, manifest: Manifest, kinds: Sequence[str] = KINDS) -> None:
    """Store everything that is not there yet, 8 at a time, and send again what was refused.

    Orthanc on PostgreSQL refuses a few uploads when clients write at the same time. Raises RuntimeError when the
    archive's count does not become the manifest's.
    """
    if archive.count() == manifest.count():
        say(f"{archive.name}: {manifest.count()} instances are there")
        return
    for kind in kinds:
        files = manifest.files(kind)
        begin = time.perf_counter()
        again = store(archive, files)
        rate = len(files) / (time.perf_counter() - begin)
        say(f"{archive.name}: {kind}, {len(files)} instances, {rate:.0f}/s, {again} sent again")
    if set(kinds) == set(KINDS):
        _settled(archive.count, manifest.count())


def store(archive: Archive, files: Sequence[Path]) -> int:
    """Store the files, 8 at a time; how many had to be sent again."""
    waiting, again, last = [by_rest(path) for path in files], 0, ""
    for _ in range(_ROUNDS):
        refused = post.post_all(archive.http, waiting, _CONNECTIONS).refused
        if not refused:
            return again
        again += len(refused)
        waiting, last = [job for _, _, job in refused], f"{refused[0][:2]}"
    raise RuntimeError(f"{archive.name} refuses {len(waiting)} files {_ROUNDS} times: {last}")


def _settled(count: Callable[[], int], expected: int, patience: float = 30.0) -> None:
    deadline = time.monotonic() + patience
    while (present := count()) != expected:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{present} instances where {expected} were stored")
        time.sleep(0.5)
