"""Sending and asking with pynetdicom, as a modality or a workstation does."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.association import Association

from tests.dimse import wire
from tests.dimse.wire import CT, EXPLICIT_LE, IMPLICIT_LE, STUDY_ROOT_FIND


def dataset_bytes(file: bytes) -> bytes:
    """What follows the file meta group."""
    return file[144 + int.from_bytes(file[140:144], "little") :]


def instance(**attributes: Any) -> Dataset:
    """A small data set; whatever is not given is made up."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = CT
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.PatientID = "DIMSE"
    dataset.Modality = "CT"
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def encoded(dataset: Dataset) -> bytes:
    """In Explicit VR Little Endian, without file meta."""
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, implicit_vr=False, little_endian=True)
    return out.getvalue()


@contextmanager
def association(
    port: int, *abstract: str, syntaxes: list[str] | None = None, calling: str = "PEER", called: str = "ANOR"
) -> Iterator[Association]:
    ae = AE(ae_title=calling)
    for uid in abstract:
        ae.add_requested_context(uid, syntaxes or [EXPLICIT_LE, IMPLICIT_LE])
    made = ae.associate("127.0.0.1", port, ae_title=called)
    assert made.is_established
    try:
        yield made
    finally:
        made.release()


def store(port: int, *datasets: Dataset, called: str = "ANOR") -> None:
    """C-STORE of each; with our own sender, as pynetdicom's has no TCP_NODELAY and waits 40 ms for each answer."""
    with wire.Wire(port) as peer:
        assert peer.associate(CT, called=called) == 2
        for dataset in datasets:
            peer.message(1, wire.store_rq(CT, dataset.SOPInstanceUID), encoded(dataset))
            assert peer.status() == 0


def find(
    port: int,
    level: str,
    model: str = STUDY_ROOT_FIND,
    syntaxes: list[str] | None = None,
    called: str = "ANOR",
    **keys: Any,
) -> tuple[int, list[Dataset], list[int]]:
    """The final status, the matches, and the status of each pending answer."""
    identifier = Dataset()
    identifier.SpecificCharacterSet = "ISO_IR 192"
    identifier.QueryRetrieveLevel = level
    for name, value in keys.items():
        setattr(identifier, name, value)
    matches, pending, final = [], [], -1
    with association(port, model, syntaxes=syntaxes, called=called) as peer:
        for status, answer in peer.send_c_find(identifier, model):
            if status.Status in (0xFF00, 0xFF01):
                pending.append(status.Status)
                matches.append(answer)
            else:
                final = status.Status
    return final, matches, pending
