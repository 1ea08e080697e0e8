"""Packages from npm that are served to browsers: fetched at a pinned version, never part of the repository.

npm itself fetches, so that its configuration (registry, proxy, cache) counts; the file must have the digest that npm
published for the version.
"""

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PATIENCE: Final = 600  # seconds for one package
_CHUNK: Final = 1 << 20


class NpmError(Exception):
    """A package cannot be installed; the message says why."""


@dataclass(frozen=True, slots=True)
class Package:
    """One version of a package; `integrity` is npm's own digest of its file, `folder` where it goes."""

    name: str
    version: str
    integrity: str
    folder: str

    def __str__(self) -> str:
        """As npm spells it."""
        return f"{self.name}@{self.version}"

    @property
    def directory(self) -> Path:
        """Where the package is, or would be, in this environment."""
        return Path(sys.prefix) / "share" / "anor" / self.folder


@contextmanager
def fetched(package: Package) -> Iterator[tarfile.TarFile]:
    """The opened package file; it is gone afterwards. Raises NpmError."""
    npm = shutil.which("npm")
    if npm is None:
        raise NpmError("npm is not installed")
    with tempfile.TemporaryDirectory(prefix="anor-npm-") as name:
        command = [npm, "pack", str(package), "--ignore-scripts", "--pack-destination", name]
        try:
            done = subprocess.run(command, cwd=name, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            raise NpmError(f"npm pack {package} took more than {_PATIENCE} s") from None
        if done.returncode:
            raise NpmError(f"npm pack {package} failed: {done.stderr.strip()[-300:]}")
        file = next(Path(name).glob("*.tgz"))
        if _integrity(file) != package.integrity:
            raise NpmError(f"{package} does not have the expected digest")
        with tarfile.open(file) as archive:
            yield archive


def _integrity(file: Path) -> str:
    digest = hashlib.sha512()
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
    return "sha512-" + base64.b64encode(digest.digest()).decode()


def member(archive: tarfile.TarFile, name: str) -> bytes:
    """The content of one file of the package. Raises NpmError where there is none."""
    try:
        content = archive.extractfile(name)
    except KeyError:
        content = None
    if content is None:
        raise NpmError(f"{name} is not in the package")
    return content.read()


@contextmanager
def replaced(directory: Path) -> Iterator[Path]:
    """An empty directory that takes the place of `directory` when the block ends well: never half an installation."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as name:
        fresh = Path(name, "new")
        fresh.mkdir()
        yield fresh
        if directory.exists():
            directory.rename(Path(name, "old"))
        fresh.rename(directory)


def command(installed: Callable[[], bool], install: Callable[[], None], without: str) -> int:
    """Install unless it is there; the exit status of a command. `without` says what does not work else."""
    if installed():
        return 0
    try:
        install()
    except (NpmError, OSError, tarfile.TarError) as error:
        sys.stderr.write(f"{error}: {without}\n")
        return 1
    return 0
