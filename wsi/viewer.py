"""OpenLayers for the slide page: `python -m wsi.viewer` installs it from npm.

Without it the page says what is missing, and everything else works.
"""

import sys
import tarfile
from pathlib import Path
from typing import Final

from wsi.npm import Package, PackageError, ensure

OPENLAYERS: Final = Package(
    "ol",
    "10.11.0",
    "sha512-OJ+lrx7kx/1O7Xx18Ff9QkVnwZIEL0OuhJQSy2sYgzzDvyZ2qHvuZEGAajbSstUyBwaS1OtQ4RWnY84tRMDdqg==",
    "ol",
)
VIEWER_FILES: Final = frozenset({"ol.js", "ol.css"})
_MEMBERS: Final = {"package/dist/ol.js": "ol.js", "package/ol.css": "ol.css", "package/LICENSE.md": "LICENSE.md"}


def viewer_file(name: str) -> Path | None:
    """The installed file of that name, or None when OpenLayers is not installed."""
    path = OPENLAYERS.directory / name
    return path if name in VIEWER_FILES and path.is_file() else None


def installed() -> bool:
    """Whether this very version is there."""
    return OPENLAYERS.is_installed


def _unpack(archive: tarfile.TarFile, target: Path) -> None:
    for member, name in _MEMBERS.items():
        content = archive.extractfile(member)
        if content is None:
            raise PackageError(f"{member} is not in the package")
        (target / name).write_bytes(content.read())


if __name__ == "__main__":
    sys.exit(ensure(OPENLAYERS, _unpack))
