"""Installing from npm: a program named npm that hands out a package made here."""

import base64
import dataclasses
import hashlib
import io
import sys
import tarfile
from pathlib import Path

import pytest

from wsi import ohif
from wsi.npm import NpmError, Package, fetched, member, replaced

PUBLIC_PATH = b'__webpack_require__.p = "/";'
PAGE = b'<script defer src="/app.bundle.0123.js"></script><link href="/app.bundle.css" rel="stylesheet">'
FILES = {
    "package/LICENSE": b"MIT",
    "package/dist/index.html": PAGE,
    "package/dist/app.bundle.0123.js": b"browserImportFunction('/dicom-microscopy-viewer/x.js');" + PUBLIC_PATH,
    "package/dist/app.bundle.css": b"@font-face { src: url(/font.woff2) }",
    "package/dist/ort/ort.js": b"left out",
    "package/dist/sw.js": b"left out",
    "package/dist/app.bundle.0123.js.map": b"left out",
    "package/dist/assets/images/CT.png": b"\x89PNG",
    "package/dist/../../outside.js": b"left out",
    **{f"package/dist/{number}.bundle.js": PUBLIC_PATH for number in range(7)},
}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package file that `npm pack` gives; it is empty at first."""
    file = tmp_path / "package.tgz"
    programs = tmp_path / "bin"
    programs.mkdir()
    npm = programs / "npm"
    npm.write_text(f'#!/bin/sh\n[ -e {file} ] || {{ echo "404 not found" >&2; exit 1; }}\ncp {file} "$5/package.tgz"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    return file


def _publish(file: Path, files: dict[str, bytes]) -> str:
    """Write the package; its integrity."""
    with tarfile.open(file, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("package/dist/link.js")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return "sha512-" + base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()


def _ohif(monkeypatch: pytest.MonkeyPatch, integrity: str) -> Package:
    package = dataclasses.replace(ohif.PACKAGE, integrity=integrity)
    monkeypatch.setattr(ohif, "PACKAGE", package)
    return package


def test_ohif_is_unpacked_changed_and_listed(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = _ohif(monkeypatch, _publish(registry, FILES))
    assert not ohif.installed()
    assert ohif.load() is None
    ohif.install()
    assert ohif.installed()
    viewer = ohif.load()
    assert viewer is not None
    names = {"app.bundle.0123.js", "app.bundle.css", "assets/images/CT.png"} | {f"{n}.bundle.js" for n in range(7)}
    assert set(viewer.assets) == names
    assert (viewer.script, viewer.style) == ("app.bundle.0123.js", "app.bundle.css")
    script = viewer.path(viewer.script, packed=False).read_bytes()
    assert b"window.PUBLIC_URL + 'dicom-microscopy-viewer/" in script
    assert PUBLIC_PATH not in script
    assert b"url(font.woff2)" in viewer.path(viewer.style, packed=False).read_bytes()
    assert not list(package.directory.parent.glob(".*"))
    # Again, over what is there; then a version that is built differently, which must not harm it.
    ohif.install()
    fewer = {name: content for name, content in FILES.items() if name != "package/dist/3.bundle.js"}
    _ohif(monkeypatch, _publish(registry, fewer))
    with pytest.raises(NpmError, match=r"is in 7 files of @ohif/app.* not in 8"):
        ohif.install()
    assert ohif.load() == viewer
    assert not list(package.directory.parent.glob(".*"))


def test_another_page_is_refused(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _ohif(monkeypatch, _publish(registry, FILES | {"package/dist/index.html": b"<script src='other.js'>"}))
    with pytest.raises(NpmError, match="not as expected"):
        ohif.install()
    assert ohif.load() is None


def test_changed_package_is_refused(registry: Path) -> None:
    _publish(registry, {"package/a": b"a"})
    with pytest.raises(NpmError, match="made@1 does not have the expected digest"), fetched(_made("sha512-x")):
        pass


def test_missing_member(registry: Path) -> None:
    with fetched(_made(_publish(registry, {"package/a": b"a"}))) as archive:
        assert member(archive, "package/a") == b"a"
        with pytest.raises(NpmError, match="package/b is not in the package"):
            member(archive, "package/b")


def test_npm_says_what_is_wrong(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NpmError, match="npm pack made@1 failed: 404 not found"), fetched(_made("")):
        pass
    monkeypatch.setenv("PATH", str(registry.parent))
    with pytest.raises(NpmError, match="npm is not installed"), fetched(_made("")):
        pass


def test_failed_installation_leaves_the_old_one(tmp_path: Path) -> None:
    place = tmp_path / "viewer"
    with replaced(place) as fresh:
        (fresh / "one").write_text("1")
    with pytest.raises(FileNotFoundError), replaced(place) as fresh:
        (fresh / "two" / "three").write_text("3")
    assert [file.name for file in place.iterdir()] == ["one"]
    assert [file.name for file in tmp_path.iterdir()] == ["viewer"]


def _made(integrity: str) -> Package:
    return Package("made", "1", integrity, "made")
