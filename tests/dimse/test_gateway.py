"""The gateway between DCMTK and a real archive: a bad line, kill -9, a full spool, refused instances, queries."""

import random
import secrets
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tests.dimse.gateways import BadLine, RunningGateway, running_gateway
from tests.dimse.peers import dataset_bytes, find
from tests.dimse.programs import DCMTK
from tests.dimse.wire import PATIENT_ROOT_FIND
from tests.files import ct, new_uid
from tests.http.bodies import store
from tests.support import RunningServer, free_port


@pytest.fixture
def line(server: RunningServer) -> Iterator[BadLine]:
    with BadLine(server.url) as proxy:
        yield proxy


@pytest.fixture
def web(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


class Study:
    """Files of one study, as a modality has them."""

    def __init__(self, folder: Path, count: int, size: int = 0) -> None:
        self.uid, series = new_uid(), new_uid()
        self.files: dict[str, Path] = {}
        folder.mkdir(parents=True)
        pixels = {} if not size else {"PixelData": random.randbytes(size * size * 2), "Rows": size, "Columns": size}
        for number in range(count):
            uid = new_uid()
            path = folder / f"{number:05d}.dcm"
            path.write_bytes(
                ct(
                    SOPInstanceUID=uid,
                    StudyInstanceUID=self.uid,
                    SeriesInstanceUID=series,
                    InstanceNumber=number,
                    **pixels,
                )
            )
            self.files[uid] = path

    def assert_stored(self, web: httpx.Client) -> None:
        """Every instance once, with the data set that was sent."""
        rows = web.get(f"/dicom-web/studies/{self.uid}/instances", params={"limit": 10_000}).json()
        assert sorted(row["00080018"]["Value"][0] for row in rows) == sorted(self.files)
        for row in rows:
            uid, series = row["00080018"]["Value"][0], row["0020000E"]["Value"][0]
            path = f"/dicom-web/studies/{self.uid}/series/{series}/instances/{uid}"
            held = web.get(path, headers={"accept": "application/dicom; transfer-syntax=*"})
            assert dataset_bytes(held.content) == dataset_bytes(self.files[uid].read_bytes())


def test_from_the_modality_to_the_archive(server: RunningServer, web: httpx.Client, tmp_path: Path) -> None:
    study = Study(tmp_path / "study", 30)
    large = Study(tmp_path / "large", 2, size=1100)  # 2.4 MB: not in memory
    with running_gateway(tmp_path / "data", server.dicomweb) as gateway:
        echo = subprocess.run(["echoscu", "-aec", "ANOR", "127.0.0.1", str(gateway.port)], env=DCMTK, check=False)
        assert echo.returncode == 0
        for each in (study, large):
            assert gateway.send(*each.files.values()).returncode == 0
        status = gateway.until_empty()
        assert gateway.get("healthz").json() == {"status": "ok"}
        metrics = gateway.get("metrics").text
        assert gateway.send(study.files.popitem()[1]).returncode == 0  # again: a success
        assert gateway.until_empty()["set_aside"]["files"] == 0
    assert status["received"]["files"] == status["sent"]["files"] == 32
    assert status["archive"]["reachable"] is True
    assert status["archive"]["last_error"] is None
    assert status["peers"]["CT1"]["received"] == 32
    assert "anor_gateway_sent_files_total 32.0" in metrics
    assert "anor_gateway_queue_files 0.0" in metrics
    assert not list((tmp_path / "data" / "gateway").rglob("*.dcm"))
    large.assert_stored(web)


def _worry(line: BadLine, seed: random.Random) -> None:
    """One fault of the line for a moment."""
    match seed.randrange(6):
        case 0:
            line.cut()
        case 1:
            line.up_left = seed.randrange(1, 200_000)
        case 2:
            line.down_left = seed.randrange(1, 400)
        case 3:
            line.stall()
            time.sleep(seed.uniform(0.1, 1.5))
            line.flow()
        case 4:
            line.refuse()
            time.sleep(seed.uniform(0.1, 1.0))
            line.accept()
        case 5:
            line.latency = seed.choice((0.0, 0.02, 0.1))
    time.sleep(seed.uniform(0.05, 0.4))


def _insist(gateway: RunningGateway, paths: list[Path], failures: list[str]) -> None:
    """A modality sends until all of it is acknowledged."""
    deadline = time.monotonic() + 150
    while gateway.send(*paths).returncode != 0:
        if time.monotonic() > deadline:
            failures.append("a modality could not get rid of its images")
            return
        time.sleep(0.3)


@pytest.mark.parametrize(
    ("count", "kills"), [(60, 2), pytest.param(600, 20, marks=[pytest.mark.full, pytest.mark.timeout(1200)])]
)
def test_nothing_lost_nothing_twice(line: BadLine, web: httpx.Client, tmp_path: Path, count: int, kills: int) -> None:
    """Cuts, latency and black holes between gateway and archive, kill -9 of the gateway meanwhile."""
    seed = random.Random(20_261_121)
    studies = [Study(tmp_path / str(n), count // 3, size=(0, 64, 300)[n]) for n in range(3)]
    failures: list[str] = []
    settings = {"gateway_batch_files": 5, "gateway_timeout": 1, "gateway_retry_max": 0.5}
    with running_gateway(tmp_path / "data", line.url, **settings) as gateway:
        modalities = [
            threading.Thread(target=_insist, args=(gateway, list(study.files.values()), failures)) for study in studies
        ]
        for modality in modalities:
            modality.start()
        for _ in range(kills):
            for _ in range(4):
                _worry(line, seed)
            gateway.kill()
            gateway.start()
        while any(modality.is_alive() for modality in modalities):
            _worry(line, seed)
        for modality in modalities:
            modality.join()
        line.heal()
        status = gateway.until_empty(60)
    assert not failures
    assert status["set_aside"]["files"] == 0
    for study in studies:
        study.assert_stored(web)
    assert not list((tmp_path / "data" / "gateway").rglob("*.dcm"))


def test_archive_down_and_spool_full(line: BadLine, web: httpx.Client, tmp_path: Path) -> None:
    study = Study(tmp_path / "study", 5)
    paths = list(study.files.values())
    line.refuse()
    with running_gateway(tmp_path / "data", line.url, gateway_max_files=3) as gateway:
        assert gateway.send(*paths[:3]).returncode == 0
        refused = gateway.send(paths[3])
        assert refused.returncode != 0
        assert "OutOfResources" in refused.stdout + refused.stderr
        status = gateway.status()
        assert (status["queue"]["files"], status["received"]["refused"]) == (3, 1)
        assert status["archive"]["reachable"] is False
        assert status["queue"]["oldest_seconds"] > 0
        line.accept()
        gateway.until_empty()
        assert gateway.send(*paths[3:]).returncode == 0
        assert gateway.until_empty()["archive"]["reachable"] is True
    study.assert_stored(web)


def test_too_many_bytes(line: BadLine, tmp_path: Path) -> None:
    """Those that are still arriving count as well."""
    study = Study(tmp_path / "study", 2, size=600)
    line.refuse()
    with running_gateway(tmp_path / "data", line.url, gateway_max_bytes=1 << 20) as gateway:
        first, second = study.files.values()
        assert gateway.send(first).returncode == 0
        refused = gateway.send(second)
        assert "OutOfResources" in refused.stdout + refused.stderr
        assert not list((tmp_path / "data" / "gateway" / "new").iterdir())


def test_refused_by_the_archive(server: RunningServer, web: httpx.Client, tmp_path: Path) -> None:
    """Other bytes under a stored SOP Instance UID: set aside with the reason, sent again when somebody says so."""
    study = Study(tmp_path / "study", 5)
    paths = list(study.files.values())
    bad = list(study.files)[2]
    original = paths[2].read_bytes()
    assert store(web, original.replace(b"Axial", b"Other")).status_code == 200
    with running_gateway(tmp_path / "data", server.dicomweb) as gateway:
        assert gateway.send(*paths).returncode == 0
        status = gateway.until_empty()
        assert (status["set_aside"]["files"], status["sent"]["files"]) == (1, 4)
        (note,) = (tmp_path / "data" / "gateway" / "dead").rglob("*.json")
        assert orjson.loads(note.read_bytes())["failure_reason"] == "0111"
        assert dataset_bytes(note.with_suffix("").read_bytes()) == dataset_bytes(original)
        series = web.get(f"/dicom-web/studies/{study.uid}/instances").json()[0]["0020000E"]["Value"][0]
        assert web.delete(f"/dicom-web/studies/{study.uid}/series/{series}/instances/{bad}").status_code == 204
        assert gateway.stop() == 0
        gateway.start("--retry-rejected")
        assert gateway.until_empty()["set_aside"]["files"] == 0
    study.assert_stored(web)


def test_who_may_call(tmp_path: Path) -> None:
    to = f"http://127.0.0.1:{free_port()}/dicom-web"
    with running_gateway(tmp_path / "data", to, gateway_peers="CT1@127.0.0.0/8, MR1@10.0.0.0/8") as gateway:

        def echo(calling: str, called: str = "ANOR") -> int:
            command = ["echoscu", "-aet", calling, "-aec", called, "127.0.0.1", str(gateway.port)]
            return subprocess.run(command, env=DCMTK, capture_output=True, check=False).returncode

        assert echo("CT1") == 0
        assert echo("MR1") != 0
        assert echo("XX") != 0
        assert echo("CT1", "OTHER") != 0


def test_queries_are_asked_at_the_archive(line: BadLine, web: httpx.Client, tmp_path: Path) -> None:
    patient = generate_uid()[-40:]
    studies = [new_uid(), new_uid()]
    series = {study: new_uid() for study in studies}
    for study in studies:
        for number in (1, 2):
            assert store(
                web,
                ct(StudyInstanceUID=study, PatientID=patient, InstanceNumber=number, SeriesInstanceUID=series[study]),
            ).is_success
    with running_gateway(tmp_path / "data", line.url, dimse_open="store,find") as gateway:
        final, matches, _ = find(gateway.port, "STUDY", PatientID=patient, PatientName="MÜLL*", StudyInstanceUID="")
        assert final == 0
        assert sorted(match.StudyInstanceUID for match in matches) == sorted(studies)
        assert {str(match.PatientName) for match in matches} == {"Müller^Änne"}
        assert all(match.QueryRetrieveLevel == "STUDY" for match in matches)
        both = "\\".join(studies)
        assert len(find(gateway.port, "STUDY", StudyInstanceUID=both)[1]) == 2
        final, matches, _ = find(gateway.port, "PATIENT", PATIENT_ROOT_FIND, PatientID=patient, PatientName="")
        assert [match.PatientID for match in matches] == [patient]
        final, matches, _ = find(
            gateway.port,
            "IMAGE",
            StudyInstanceUID=studies[0],
            SeriesInstanceUID="",
            SOPInstanceUID="",
            InstanceNumber=2,
        )
        assert [match.InstanceNumber for match in matches] == [2]
        assert matches[0].SeriesInstanceUID == series[studies[0]]
        assert find(gateway.port, "STUDY", PatientID=new_uid()[:60])[:2] == (0, [])
        line.refuse()
        assert find(gateway.port, "STUDY", PatientID=patient)[0] == 0xA700


def test_worklist_of_the_archive(line: BadLine, web: httpx.Client, tmp_path: Path) -> None:
    """As a modality asks for it, answered by the archive's MWL-RS."""
    accession = secrets.token_hex(6)
    step = {
        "00080060": {"vr": "CS", "Value": ["MR"]},
        "00400001": {"vr": "AE", "Value": ["MR1"]},
        "00400002": {"vr": "DA", "Value": ["20261121"]},
        "00400003": {"vr": "TM", "Value": ["0930"]},
        "00400009": {"vr": "SH", "Value": ["S-1"]},
    }
    item = {
        "00080050": {"vr": "SH", "Value": [accession]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Müller^Änne"}]},
        "00100020": {"vr": "LO", "Value": ["P-7"]},
        "00401001": {"vr": "SH", "Value": ["R-1"]},
        "00400100": {"vr": "SQ", "Value": [step]},
    }
    path = "/dicom-web/modality-scheduled-procedure-steps"
    made = web.post(path, content=orjson.dumps(item), headers={"content-type": "application/dicom+json"})
    assert made.is_success, made.text
    keys = [
        f"AccessionNumber={accession}",
        "PatientName",
        "PatientID",
        "ScheduledProcedureStepSequence[0].Modality=MR",
        "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate=20261121",
        "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartTime",
    ]
    with running_gateway(tmp_path / "data", line.url, dimse_open="store,find") as gateway:

        def ask(*wanted: str) -> list[Dataset]:
            folder = Path(tempfile.mkdtemp(dir=tmp_path))
            command = ["findscu", "-aec", "ANOR", "-W", "-X", "-od", str(folder), "127.0.0.1", str(gateway.port)]
            given = [part for key in wanted for part in ("-k", key)]
            subprocess.run([*command, *given], env=DCMTK, check=True, capture_output=True)
            return [pydicom.dcmread(path, force=True) for path in sorted(folder.iterdir())]

        (found,) = ask(*keys)
        assert str(found.PatientName) == "Müller^Änne"
        assert found.PatientID == "P-7"
        (scheduled,) = found.ScheduledProcedureStepSequence
        assert (scheduled.Modality, scheduled.ScheduledProcedureStepStartTime[:4]) == ("MR", "0930")
        assert "ScheduledProcedureStepID" not in scheduled
        assert ask(*keys[:3], "ScheduledProcedureStepSequence[0].Modality=CT") == []
        assert ask(f"AccessionNumber={accession}x") == []
