"""OpenLayers for the slide viewer (`wsi/viewer/`); `python -m wsi.openlayers` installs it.

Without it the viewer says what is missing, and everything else works.
"""

import sys
from pathlib import Path
from typing import Final

from wsi.npm import Package, command, fetched, member, replaced

PACKAGE: Final = Package(
    "ol",
    "10.11.0",
    "sha512-OJ+lrx7kx/1O7Xx18Ff9QkVnwZIEL0OuhJQSy2sYgzzDvyZ2qHvuZEGAajbSstUyBwaS1OtQ4RWnY84tRMDdqg==",
    "ol",
)
LIBRARY_FILES: Final = frozenset({"ol.js", "ol.css"})
_MEMBERS: Final = {"package/dist/ol.js": "ol.js", "package/ol.css": "ol.css", "package/LICENSE.md": "LICENSE.md"}


def library_file(name: str) -> Path | None:
    """The installed file of that name, or None when OpenLayers is not installed."""
    path = PACKAGE.directory / name
    return path if name in LIBRARY_FILES and path.is_file() else None


def installed() -> bool:
    """Whether this very version is there."""
    stamp = PACKAGE.directory / "VERSION"
    return stamp.is_file() and stamp.read_text("utf-8") == PACKAGE.version and all(map(library_file, LIBRARY_FILES))


def install() -> None:
    """Fetch the package and keep the three files that are needed. Raises NpmError."""
    with fetched(PACKAGE) as archive, replaced(PACKAGE.directory) as target:
        for source, name in _MEMBERS.items():
            (target / name).write_bytes(member(archive, source))
        (target / "VERSION").write_text(PACKAGE.version, "utf-8")


if __name__ == "__main__":
    sys.exit(command(installed, install, "/wsi/viewer/ stays without OpenLayers"))
