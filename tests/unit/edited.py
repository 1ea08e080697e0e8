"""Helpers for tests of edits: files made by pydicom, their edits in one piece."""

import warnings
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicomweb.deidentify import Option, Pseudonyms, deidentification
from dicomweb.edit import Edit, Extent, Rules
from dicomweb.edit.parsing import parse_value
from dicomweb.edit.paths import parse_path
from dicomweb.edit.rules import CLEAR, REMOVE, Action, Rule

KEY = Pseudonyms(b"a key of the project, 32 bytes ok")


def assembled(source: bytes, edit: Edit) -> bytes:
    """The output in one piece."""
    return b"".join(
        source[part.offset : part.offset + part.length] if isinstance(part, Extent) else part for part in edit
    )


def edited(source: bytes, rules: Rules) -> bytes:
    return assembled(source, Edit(source, rules))


def deidentified(source: bytes, *options: Option, **rest) -> bytes:
    return edited(source, deidentification(KEY, options, **rest))


def written(ds: Dataset, syntax: str = ExplicitVRLittleEndian, *, sop: str = "1.2.826.0.1.3680043.8.498.1") -> bytes:
    """A Part 10 file of a data set, as it is."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", "1.2.3")
    meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", sop)
    ds.file_meta = meta
    out = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def read(data: bytes) -> Dataset:
    return dcmread(BytesIO(data))


def rules(replace=(), remove=(), clear=(), **rest):
    """Rules by path."""
    found = {}
    for path, value in dict(replace).items():
        parsed = parse_path(path)
        found[parsed] = Rule(Action.REPLACE, parse_value(parsed.tag, value))
    found |= {parse_path(path): REMOVE for path in remove} | {parse_path(path): CLEAR for path in clear}
    return Rules(found, **rest)
