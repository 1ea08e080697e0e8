"""Decoders that are not ours: GDCM, DCMTK, OpenJPEG and libjxl as Debian packages them."""

import subprocess
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import FileDataset

DCMTK = {
    "4.50": "dcmdjpeg",
    "4.51": "dcmdjpeg",
    "4.57": "dcmdjpeg",
    "4.70": "dcmdjpeg",
    "4.80": "dcmdjpls",
    "4.81": "dcmdjpls",
    "5": "dcmdrle",
}


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"


def by_gdcm(file: bytes) -> FileDataset:
    """The file with its pixel data uncompressed."""
    return _converted(file, "gdcmconv", "--raw")


def by_dcmtk(file: bytes, transfer_syntax: str, *options: str) -> FileDataset:
    """The file with its pixel data uncompressed; YBR of a JPEG stream becomes RGB."""
    return _converted(file, DCMTK[transfer_syntax.removeprefix("1.2.840.10008.1.2.")], *options)


def _converted(file: bytes, *command: str) -> FileDataset:
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "in.dcm"), Path(name, "out.dcm")
        source.write_bytes(file)
        _run(*command, str(source), str(target))
        return dcmread(BytesIO(target.read_bytes()))


def by_openjpeg(stream: bytes) -> np.ndarray:
    """A JPEG 2000 or HTJ2K code stream as (rows, columns) or (rows, columns, 3)."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "in.j2c")
        source.write_bytes(stream)
        _run("opj_decompress", "-i", str(source), "-o", str(Path(name, "out.pgx")))
        planes = [_pgx(plane.read_bytes()) for plane in sorted(Path(name).glob("out*.pgx"))]
        return planes[0] if len(planes) == 1 else np.stack(planes, -1)


def _pgx(data: bytes) -> np.ndarray:
    """One component: "PG ML + 12 512 512", then the samples."""
    head, _, body = data.partition(b"\n")
    _, order, sign, bits, columns, rows = head.replace(b"+", b"+ ").replace(b"-", b"- ").split()
    kind = f"{'>' if order == b'ML' else '<'}{'i' if sign == b'-' else 'u'}{1 if int(bits) <= 8 else 2}"
    return np.frombuffer(body, kind, int(rows) * int(columns)).reshape(int(rows), int(columns))


def by_libjxl(stream: bytes, bits: int) -> np.ndarray:
    """A JPEG XL code stream as (rows, columns) or (rows, columns, 3).

    `bits`: those of a sample. djxl widens more than 8 to the whole range of 16 bits, whatever its file says of them.
    """
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "in.jxl"), Path(name, "out.ppm")
        source.write_bytes(stream)
        _run("djxl", str(source), str(target))
        data = target.read_bytes()
    magic, columns, rows, peak, _ = data.split(None, 4)
    shape = (int(rows), int(columns)) if magic == b"P5" else (int(rows), int(columns), 3)
    kind = np.dtype(">u2" if int(peak) > 255 else "u1")
    values = np.frombuffer(data[-int(np.prod(shape)) * kind.itemsize :], kind).reshape(shape)
    widest = 255 if int(peak) <= 255 else 65535
    return np.rint(values * (((1 << bits) - 1) / widest)).astype(np.uint16)
