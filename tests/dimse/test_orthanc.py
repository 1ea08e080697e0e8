"""Orthanc as a peer that echoes, sends and asks."""

import json
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from tests import orthanc as peer


@pytest.fixture(scope="module")
def orthanc(bridge, tmp_path_factory):
    with peer.running_orthanc(tmp_path_factory.mktemp("orthanc"), {"anor": ("ANOR", bridge.port)}) as running:
        yield running


def test_echo(orthanc):
    orthanc.request("POST", "/modalities/anor/echo", b"{}")


def test_orthanc_sends_studies_in_several_encodings(orthanc):
    names = (
        "CT_small.dcm",
        "MR_small.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "MR_small_RLE.dcm",
        "emri_small_jpeg_2k_lossless.dcm",
    )
    ids = [orthanc.upload(Path(get_testdata_file(name)).read_bytes()) for name in names]
    wanted = sorted(set(ids) - {ids[3]} | {ids[1]})  # MR_small is there in two encodings: the first one counts
    answer = orthanc.request("POST", "/modalities/anor/store", json.dumps({"Resources": wanted}).encode())
    assert answer["InstancesCount"] == len(wanted)
    assert answer["FailedInstancesCount"] == 0


def test_orthanc_asks(orthanc):
    sent = orthanc.upload(Path(get_testdata_file("CT_small.dcm")).read_bytes())
    orthanc.request("POST", "/modalities/anor/store", sent.encode())
    question = {"Level": "Study", "Query": {"PatientID": "1CT1", "PatientName": "", "ModalitiesInStudy": "CT"}}
    asked = orthanc.request("POST", "/modalities/anor/query", json.dumps(question).encode())
    answers = orthanc.request("GET", f"/queries/{asked['ID']}/answers?expand&simplify")
    assert [a["PatientName"] for a in answers] == ["CompressedSamples^CT1"]
    assert answers[0]["ModalitiesInStudy"] == "CT"
