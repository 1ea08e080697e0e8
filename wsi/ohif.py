"""The OHIF viewer: fetched from npm as it is published, made fit for a path of its own, compressed once.

`python -m wsi.ohif` installs it below the environment. A catalog written there lists every file with its digest, so
that serving looks names up and never builds a path from a request. The published build expects to be at the root of a
server; its few places that say so are changed while unpacking, and their number must be what this version has.
"""

import gzip
import hashlib
import json
import re
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final

from wsi.npm import NpmError, Package, command, fetched, member, replaced

PACKAGE: Final = Package(
    "@ohif/app",
    "3.13.2",
    "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==",
    "ohif",
)
_CATALOG: Final = "catalog.json"
_DIST: Final = PurePosixPath("package/dist")
# Names the form of what is unpacked; a change of it installs again.
_FORM: Final = 1
MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".woff2": "font/woff2",
}
_PACKED: Final = frozenset({".css", ".js", ".svg", ".wasm"})
# Not served: the ONNX runtime of the AI tools (136 MB), icons of telephones, scripts of the demo's page (a service
# worker that loads from elsewhere, log-in with Google), and by their suffix source maps, pages and customizations.
_LEFT_OUT: Final = re.compile(
    r"ort/|assets/(android|apple|coast|firefox|mstile|yandex)"
    r"|(es6-shim\.min|google|init-service-worker|oidc-client\.min|polyfill\.min|sw)\.js$"
)
_SCRIPT: Final = re.compile(r'<script defer src="/(app\.bundle\.[0-9a-f]+\.js)">')
_STYLE: Final = re.compile(r'<link href="/(app\.bundle\.css)" rel="stylesheet">')


@dataclass(frozen=True, slots=True)
class _Change:
    """A piece of text that takes the place of another one in `files` files, as often as it occurs in each."""

    suffix: str
    old: bytes
    new: bytes
    files: int


# Where the files are is known to a page by PUBLIC_URL (app-config.js sets it), to a worker by its own address.
_CHANGES: Final = (
    _Change(
        ".js",
        b'__webpack_require__.p = "/";',
        b'__webpack_require__.p = self.PUBLIC_URL || new URL(".", self.location).href;',
        8,
    ),
    _Change(
        ".js",
        b"browserImportFunction('/dicom-microscopy-viewer/",
        b"browserImportFunction(window.PUBLIC_URL + 'dicom-microscopy-viewer/",
        1,
    ),
    _Change(".css", b"url(/", b"url(", 1),
)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file to serve. `size` and `packed_size` in bytes; `packed_size` is 0 where there is no compressed form."""

    digest: str
    size: int
    packed_size: int


@dataclass(frozen=True, slots=True)
class Viewer:
    """An installed OHIF. `build` changes with any byte of it; `script` and `style` are what its page loads."""

    directory: Path
    build: str
    script: str
    style: str
    assets: dict[str, Asset]

    def path(self, name: str, *, packed: bool) -> Path:
        """Where the file of a name out of `assets` is."""
        return self.directory / f"{name}.gz" if packed else self.directory / name


def load(directory: Path | None = None) -> Viewer | None:
    """The installed viewer, or None."""
    directory = directory or PACKAGE.directory
    try:
        modified = (directory / _CATALOG).stat().st_mtime_ns
    except OSError:
        return None
    return _read(directory, modified)


@lru_cache(maxsize=2)
def _read(directory: Path, modified: int) -> Viewer:  # noqa: ARG001 - the time is part of the cache's key
    catalog = json.loads((directory / _CATALOG).read_bytes())
    assets = {name: Asset(**asset) for name, asset in catalog["assets"].items()}
    return Viewer(directory, catalog["build"], catalog["script"], catalog["style"], assets)


def installed() -> bool:
    """Whether this very version is there, in this very form."""
    stamp = PACKAGE.directory / "VERSION"
    return stamp.is_file() and stamp.read_text("utf-8") == _version() and load() is not None


def _version() -> str:
    return f"{PACKAGE.version}-{_FORM}"


def install() -> None:
    """Fetch the package, change and compress what is served of it. Raises NpmError."""
    with fetched(PACKAGE) as archive, replaced(PACKAGE.directory) as target:
        page = member(archive, str(_DIST / "index.html")).decode()
        (target / "LICENSE").write_bytes(member(archive, "package/LICENSE"))
        assets = {name: _write(target, name, content) for name, content in _changed(archive)}
        catalog = {
            "build": hashlib.sha256("".join(asset.digest for asset in assets.values()).encode()).hexdigest()[:16],
            "script": _named(page, _SCRIPT, assets),
            "style": _named(page, _STYLE, assets),
            "assets": {name: asdict(asset) for name, asset in assets.items()},
        }
        (target / _CATALOG).write_text(json.dumps(catalog), "utf-8")
        (target / "VERSION").write_text(_version(), "utf-8")


def _named(page: str, pattern: re.Pattern[str], assets: dict[str, Asset]) -> str:
    found = pattern.search(page)
    if found is None or found[1] not in assets:
        raise NpmError(f"the page of {PACKAGE} is not as expected")
    return found[1]


def _changed(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """The files to serve by their names below dist/, one after the other. Raises NpmError when a place is not found."""
    counts = dict.fromkeys(_CHANGES, 0)
    for entry in archive:
        path = PurePosixPath(entry.name)
        if not entry.isfile() or ".." in path.parts or not path.is_relative_to(_DIST):
            continue
        name = str(path.relative_to(_DIST))
        if path.suffix not in MEDIA_TYPES or _LEFT_OUT.match(name):
            continue
        content = member(archive, entry.name)
        for change in _CHANGES:
            if path.suffix == change.suffix and change.old in content:
                counts[change] += 1
                content = content.replace(change.old, change.new)
        yield name, content
    for change, count in counts.items():
        if count != change.files:
            raise NpmError(f"{change.old!r} is in {count} files of {PACKAGE}, not in {change.files}")


def _write(target: Path, name: str, content: bytes) -> Asset:
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    packed = gzip.compress(content, 9, mtime=0) if path.suffix in _PACKED else b""
    if packed:
        path.with_name(path.name + ".gz").write_bytes(packed)
    return Asset(hashlib.sha256(content).hexdigest()[:20], len(content), len(packed))


if __name__ == "__main__":
    sys.exit(command(installed, install, "/ohif/ stays without its viewer"))
