"""pynetdicom's own programs as peers: echoscu, storescu, findscu, getscu, movescu, and storescp as the destination."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from storage.modalities import Modality
from tests.dimse.conftest import Bridge
from tests.dimse.peers import dataset_bytes
from tests.dimse.programs import listening
from tests.dimse.test_retrieve import files_in
from tests.files import dataset, encoded, new_uid


def program(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pynetdicom", *map(str, arguments)]


def says(bridge: Bridge, name: str, *arguments: object) -> str:
    """What a program says; those of pynetdicom end with 0 whatever the peer has answered."""
    command = program(name, "127.0.0.1", bridge.port, "-v", "-aec", "ANOR", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout + done.stderr


@contextlib.contextmanager
def storescp(folder: Path, aet: str, port: int) -> Iterator[None]:
    folder.mkdir()
    command = program("storescp", port, "-ba", "127.0.0.1", "-aet", aet, "-od", folder)
    with listening(command, port, output=subprocess.DEVNULL):
        yield


async def test_store_find_get_and_move(bridge: Bridge, workstation: Modality, tmp_path: Path) -> None:
    study, sent = new_uid(), {}
    (tmp_path / "sent").mkdir()
    for number in range(3):
        made = dataset(StudyInstanceUID=study, PatientName="Ärzte^Anna", InstanceNumber=number)
        sent[made.SOPInstanceUID] = encoded(made)
        (tmp_path / "sent" / f"{number}.dcm").write_bytes(sent[made.SOPInstanceUID])

    assert "Status: 0x0000" in says(bridge, "echoscu")
    assert says(bridge, "storescu", "-r", tmp_path / "sent").count("Status: 0x0000") == 3
    asked = ("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}")
    found = says(bridge, "findscu", *asked, "-k", "NumberOfStudyRelatedInstances=")
    assert found.count("0xFF00 (Pending)") == 1
    assert "[3 ]" in found or "[3]" in found
    assert "0x0000 (Success)" in found

    got, moved = tmp_path / "got", tmp_path / "moved"
    got.mkdir()
    assert "0x0000" in says(bridge, "getscu", "-aet", workstation.aet, "-od", got, *asked)
    with storescp(moved, workstation.aet, workstation.port):
        assert "0x0000" in says(bridge, "movescu", "-aet", workstation.aet, "-aem", workstation.aet, *asked)
    for folder in (got, moved):
        came = files_in(folder)
        assert came.keys() == sent.keys()
        for uid, path in came.items():
            assert dataset_bytes(path.read_bytes()) == dataset_bytes(sent[uid])
