"""How fast files are edited and de-identified, beside pydicom doing the same edit: `python -m tests.bench.edit_speed`.

A CT of 530 KB and a multi-frame of 20 MB, in memory. The edit replaces and removes a few attributes; pydicom reads,
edits and saves. The best of several runs, in CPU time: the machine may have other things to do.
"""

import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from time import process_time

import numpy as np
import pydicom.data
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicomweb.deidentify import Pseudonyms, deidentification
from dicomweb.edit import Edit, Extent, Rules
from dicomweb.edit.parsing import parse_value
from dicomweb.edit.paths import parse_path
from dicomweb.edit.rules import MAP_UID, REMOVE, Action, Rule

_CHANGES = {"PatientName": "Doe^Jane", "PatientID": "P-1", "StudyDescription": "A study"}
_REMOVED = ("AccessionNumber", "InstitutionName", "PatientBirthDate")
_IDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def _ct(rows: int, frames: int) -> bytes:
    """pydicom's CT with more pixels: 270 elements, two thirds of them private."""
    ds = dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
    ds.Rows = ds.Columns = rows
    if frames > 1:
        ds.NumberOfFrames = frames
    ds.PixelData = np.random.default_rng(1).integers(0, 4096, rows * rows * frames, "<u2").tobytes()
    out = BytesIO()
    ds.save_as(out)
    return out.getvalue()


def _rules() -> Rules:
    paths = {parse_path(name): REMOVE for name in _REMOVED} | {parse_path(name): MAP_UID for name in _IDS}
    for name, value in _CHANGES.items():
        path = parse_path(name)
        paths[path] = Rule(Action.REPLACE, parse_value(path.tag, value))
    return Rules(paths, uid=Pseudonyms(bytes(32)).uid)


def _ours(source: bytes, rules: Rules) -> int:
    view = memoryview(source)
    out = BytesIO()
    for part in Edit(source, rules):
        out.write(view[part.offset : part.offset + part.length] if isinstance(part, Extent) else part)
    return out.tell()


def _segments(source: bytes, rules: Rules) -> int:
    return sum(part.length if isinstance(part, Extent) else len(part) for part in Edit(source, rules))


def _pydicom(source: bytes) -> int:
    ds = dcmread(BytesIO(source))
    for name, value in _CHANGES.items():
        setattr(ds, name, value)
    for name in _REMOVED:
        if name in ds:
            delattr(ds, name)
    for name in _IDS:
        setattr(ds, name, generate_uid(entropy_srcs=[ds[name].value]))
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    out = BytesIO()
    ds.save_as(out)
    return out.tell()


def _best(run: Callable[[], int], times: int) -> float:
    """Milliseconds."""
    run()
    found = []
    for _ in range(times):
        start = process_time()
        run()
        found.append(process_time() - start)
    return min(found) * 1000


def main() -> None:
    """Print one line for each file."""
    rules, profile = _rules(), deidentification(Pseudonyms(bytes(32)))
    files = {"CT 530 KB": _ct(512, 1), "multi-frame 20 MB": _ct(512, 40)}
    files |= {Path(name).name: Path(name).read_bytes() for name in sys.argv[1:]}
    for name, source in files.items():
        times = 300 if len(source) < 1 << 20 else 40
        theirs, ours = _best(lambda s=source: _pydicom(s), times), _best(lambda s=source: _ours(s, rules), times)
        parts = _best(lambda s=source: _segments(s, rules), times)
        named = _best(lambda s=source: _ours(s, profile), times)
        print(
            f"{name}: pydicom {theirs:.2f} ms, edit {ours:.2f} ms ({theirs / ours:.1f}x), as extents {parts:.2f} ms "
            f"({theirs / parts:.1f}x), de-identified {named:.2f} ms ({theirs / named:.1f}x of pydicom's plain edit)"
        )


if __name__ == "__main__":
    main()
