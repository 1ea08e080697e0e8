"""Viewers from npm: fetched into the environment once, checked by npm's own digest, never part of the repository."""

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

_SECONDS = 600


class PackageError(Exception):
    """A package cannot be installed; the message says why."""


@dataclass(frozen=True, slots=True)
class Package:
    """One version of a package. `integrity`: npm's digest of the file; a changed file is refused."""

    name: str
    version: str
    integrity: str
    folder: str

    @property
    def directory(self) -> Path:
        """Where the package is, or would be, in this environment."""
        return Path(sys.prefix) / "share" / "anor" / self.folder

    @property
    def is_installed(self) -> bool:
        """Whether this very version is there."""
        stamp = self.directory / "VERSION"
        return stamp.is_file() and stamp.read_text("utf-8") == self.version

    def install(self, unpack: Callable[[tarfile.TarFile, Path], None]) -> None:
        """Fetch the package and have `unpack` put what is needed into the directory. Raises PackageError."""
        with self._fetched() as file, tarfile.open(file) as archive:
            new = self.directory.with_name(f"{self.folder}.new")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            unpack(archive, new)
            (new / "VERSION").write_text(self.version, "utf-8")
            shutil.rmtree(self.directory, ignore_errors=True)
            new.rename(self.directory)

    @contextmanager
    def _fetched(self) -> Iterator[Path]:
        npm = shutil.which("npm")
        if npm is None:
            raise PackageError(f"npm is not installed: {self.name} is left out")
        what = f"{self.name}@{self.version}"
        with tempfile.TemporaryDirectory(prefix="anor-npm-") as name:
            command = [npm, "pack", what, "--ignore-scripts", "--pack-destination", name]
            try:
                done = subprocess.run(command, cwd=name, capture_output=True, text=True, timeout=_SECONDS, check=False)
            except subprocess.TimeoutExpired as error:
                raise PackageError(f"npm pack {what} did not end within {_SECONDS} s") from error
            if done.returncode:
                raise PackageError(f"npm pack {what} failed: {done.stderr.strip()[-300:]}")
            file = next(Path(name).glob("*.tgz"))
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha512").digest()
            if "sha512-" + base64.b64encode(digest).decode() != self.integrity:
                raise PackageError(f"{what} does not have the expected digest")
            yield file


def ensure(package: Package, unpack: Callable[[tarfile.TarFile, Path], None]) -> int:
    """Install unless it is there; the exit status of a command that says whether it is now."""
    if package.is_installed:
        return 0
    try:
        package.install(unpack)
    except PackageError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
