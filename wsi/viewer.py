"""OpenLayers for the slide page: fetched from npm into the environment, never part of the repository.

`python -m wsi.viewer` installs it (npm must be there); without it the page says what is missing, and everything else
works.
"""

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

VERSION: Final = "10.11.0"
# npm's own digest of the package file; a changed file is refused.
INTEGRITY: Final = "sha512-OJ+lrx7kx/1O7Xx18Ff9QkVnwZIEL0OuhJQSy2sYgzzDvyZ2qHvuZEGAajbSstUyBwaS1OtQ4RWnY84tRMDdqg=="
VIEWER_FILES: Final = frozenset({"ol.js", "ol.css"})
_MEMBERS: Final = {"package/dist/ol.js": "ol.js", "package/ol.css": "ol.css", "package/LICENSE.md": "LICENSE.md"}


class ViewerError(Exception):
    """OpenLayers cannot be installed; the message says why."""


def viewer_directory() -> Path:
    """Where OpenLayers is, or would be, in this environment."""
    return Path(sys.prefix) / "share" / "anor" / "ol"


def viewer_file(name: str) -> Path | None:
    """The installed file of that name, or None when OpenLayers is not installed."""
    path = viewer_directory() / name
    return path if name in VIEWER_FILES and path.is_file() else None


def installed() -> bool:
    """Whether this very version is there."""
    stamp = viewer_directory() / "VERSION"
    return stamp.is_file() and stamp.read_text("utf-8") == VERSION and all(map(viewer_file, VIEWER_FILES))


def install() -> None:
    """Fetch the package with npm, check its digest, and unpack the three files that are needed. Raises ViewerError."""
    npm = shutil.which("npm")
    if npm is None:
        raise ViewerError("npm is not installed: the slide page stays without OpenLayers")
    with tempfile.TemporaryDirectory(prefix="anor-viewer-") as name:
        directory = Path(name)
        command = [npm, "pack", f"ol@{VERSION}", "--ignore-scripts", "--pack-destination", name]
        done = subprocess.run(command, cwd=name, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise ViewerError(f"npm pack ol@{VERSION} failed: {done.stderr.strip()[-300:]}")
        package = next(directory.glob("*.tgz"))
        digest = hashlib.sha512(package.read_bytes()).digest()
        if "sha512-" + base64.b64encode(digest).decode() != INTEGRITY:
            raise ViewerError(f"ol@{VERSION} does not have the expected digest")
        _unpack(package, viewer_directory())


def _unpack(package: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(package) as archive:
        for member, name in _MEMBERS.items():
            content = archive.extractfile(member)
            if content is None:
                raise ViewerError(f"{member} is not in the package")
            (target / name).write_bytes(content.read())
    (target / "VERSION").write_text(VERSION, "utf-8")


def main() -> int:
    """Install unless it is there; the exit status says whether it is now."""
    if installed():
        return 0
    try:
        install()
    except (ViewerError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
