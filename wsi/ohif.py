"""The OHIF viewer: `python -m wsi.ohif` installs its prebuilt pages from npm, made ready to be served under /ohif/.

Without it the study list has no link to it, and everything else works. What the pages do not need is left out (source
maps, the runtime of its AI tools), paths are rewritten and text is compressed once, so that serving costs nothing.
"""

import base64
import gzip
import hashlib
import re
import sys
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final

from wsi.npm import Package, PackageError, ensure

BASE: Final = "/ohif/"
OHIF: Final = Package(
    "@ohif/app",
    "3.13.2",
    "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==",
    "ohif",
)
INDEX: Final = "index.html"

_DIST: Final = PurePosixPath("package/dist")
_LEFT_OUT: Final = ("ort/",)
# Made by the server, or of no use: a service worker would keep an old version alive.
_MADE: Final = frozenset(("app-config.js", "init-service-worker.js", "sw.js"))
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webp": "image/webp",
    ".wasm": "application/wasm",
    ".woff2": "font/woff2",
    ".ttf": "font/ttf",
    ".txt": "text/plain; charset=utf-8",
}
_COMPRESSED: Final = frozenset((".html", ".js", ".mjs", ".css", ".json", ".svg", ".wasm"))
_HASHED: Final = re.compile(r"[0-9a-f]{16}")
_INLINE: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is served. `zipped`: the same, compressed by gzip. `fixed`: its name changes with its content."""

    path: Path
    zipped: Path | None
    media_type: str
    etag: str
    fixed: bool


@cache
def assets() -> dict[str, Asset]:
    """Every file by its path under /ohif/: a closed list, empty where OHIF is not installed."""
    if not OHIF.is_installed:
        return {}
    found = {}
    for path in sorted(OHIF.directory.rglob("*")):
        if not path.is_file() or path.suffix not in _TYPES:
            continue
        name = path.relative_to(OHIF.directory).as_posix()
        zipped = path.with_name(path.name + ".gz")
        etag = hashlib.sha256(f"{OHIF.version}/{name}".encode()).hexdigest()[:20]
        fixed = _HASHED.search(path.name) is not None
        found[name] = Asset(path, zipped if zipped.is_file() else None, _TYPES[path.suffix], f'"{etag}"', fixed)
    return found


@cache
def inline_hashes() -> tuple[str, ...]:
    """What a Content-Security-Policy calls the scripts inside the page."""
    page = (OHIF.directory / INDEX).read_bytes()
    digests = (hashlib.sha256(script).digest() for script in _INLINE.findall(page))
    return tuple(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _unpack(archive: tarfile.TarFile, target: Path) -> None:
    for member in archive:
        path = PurePosixPath(member.name)
        if not member.isfile() or not path.is_relative_to(_DIST) or ".." in path.parts:
            continue
        name = path.relative_to(_DIST).as_posix()
        if name in _MADE or name.startswith(_LEFT_OUT) or path.suffix not in _TYPES:
            continue
        content = archive.extractfile(member)
        assert content is not None
        data = _moved(name, content.read())
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        if path.suffix in _COMPRESSED:
            file.with_name(file.name + ".gz").write_bytes(gzip.compress(data, 6, mtime=0))
    if not (target / INDEX).is_file():
        raise PackageError(f"{OHIF.name} holds no pages")


def _moved(name: str, data: bytes) -> bytes:
    """The pages are built for the root of a server: here they live under /ohif/."""
    base = BASE.encode()
    if name == INDEX:
        data = re.sub(rb'((?:href|src|PUBLIC_URL)=")/', rb"\1" + base, data)
    elif name.endswith(".js"):
        data = data.replace(b'__webpack_require__.p = "/"', b'__webpack_require__.p = "' + base + b'"')
        data = data.replace(b'"/dicom-microscopy-viewer/"', b'"' + base + b'dicom-microscopy-viewer/"')
    elif name.endswith(".css"):
        data = re.sub(rb"url\(/(?=[0-9a-f]{16}\.)", rb"url(" + base, data)
    return data


if __name__ == "__main__":
    sys.exit(ensure(OHIF, _unpack))
