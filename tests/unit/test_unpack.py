"""Slides in ZIP files: the one that is meant, and nothing outside the folder."""

import zipfile
from pathlib import Path

import pytest

from wsi.convert.run import ConversionFailed
from wsi.convert.unpack import is_zip, unpack


def packed(path: Path, *names: str, data: bytes = b"data") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("names", "slide"),
    [
        (["a.mrxs", "a/Slidedat.ini", "a/Data0001.dat"], "a.mrxs"),
        (["case/a.vms", "case/a.jpg", "case/a_macro.jpg", "case/a.opt"], "case/a.vms"),
        (["readme.txt", "a.SVS", "__MACOSX/._a.svs", ".hidden.svs"], "a.SVS"),
    ],
)
def test_the_slide_is_found(tmp_path: Path, names: list[str], slide: str) -> None:
    path = packed(tmp_path / "x.zip", *names)
    assert is_zip(path)
    (tmp_path / "in").mkdir()
    found = unpack(path, tmp_path / "in")
    assert found == tmp_path / "in" / slide
    assert sorted(
        str(file.relative_to(tmp_path / "in")) for file in (tmp_path / "in").rglob("*") if file.is_file()
    ) == (sorted(names))
    assert found.read_bytes() == b"data"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["../a.svs"], "not that of a file"),
        (["/etc/a.svs"], "not that of a file"),
        (["a/../../a.svs"], "not that of a file"),
        (["b\\\\..\\\\a.svs"], "not that of a file"),
        (["/".join("abcdefghi")], "not that of a file"),
        (["x" * 300 + ".svs"], "not that of a file"),
        (["a.svs", "b.svs"], "2 slides"),
        (["a.txt"], "0 slides"),
        (["a.svs", "a.svs"], "cannot be written"),
        (["a.svs", "a.svs/b"], "cannot be written"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_is_refused(tmp_path: Path, names: list[str], said: str) -> None:
    path = packed(tmp_path / "x.zip", *names)
    (tmp_path / "in").mkdir()
    with pytest.raises(ConversionFailed, match=said):
        unpack(path, tmp_path / "in")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in", "x.zip"]


def test_what_inflates_too_much(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.zip", "a.svs", data=bytes(128 << 20))
    (tmp_path / "in").mkdir()
    with pytest.raises(ConversionFailed, match="inflates more than 20 times"):
        unpack(path, tmp_path / "in")
    assert not list((tmp_path / "in").iterdir())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ConversionFailed, match="damaged"):
        unpack(path, tmp_path / "in")
