"""The benchmark's own parts: data that are valid, generators that count right, verdicts that follow from the rows."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pydicom
import pytest

from tests.decoders import by_gdcm

from . import answers, archives, data, floors, get, load, manifest, post, transcode
from .report import Figures, Report, read_rows

MULTIPART = b"--x\r\nContent-Type: a/b\r\n\r\n12345\r\n--x\r\n\r\n123\r\n--x--\r\n"
CHUNKED = b"5\r\nabcde\r\n0\r\n\r\n"
TINY = data.Sizes(1, 2, 2, 2, 1, 2, jpeg_frames=3, rgb_frames=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> manifest.Manifest:
    return data.generate(tmp_path_factory.mktemp("bench-data"), TINY)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, int]]

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        body = self.rfile.read(size)
        self.server.seen.append((self.path, self.headers["Content-Type"], body.count(b"DICM")))  # type: ignore[attr-defined]
        refuse = len(self.server.seen) == 2  # type: ignore[attr-defined]
        self._answer(503 if refuse else 200, b"{}", "application/json", close=len(self.server.seen) % 3 == 0)  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        if self.path == "/multipart":
            self._answer(200, MULTIPART, 'multipart/related; boundary="x"')
        elif self.path == "/empty":
            self._answer(200, b"[]", "application/dicom+json")
        elif self.path == "/unbounded":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"z" * 3_000_000)
            self.close_connection = True
        elif self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(CHUNKED)
        else:
            self._answer(200, b'[{"0020000D": {"vr": "UI", "Value": ["1.2"]}}]', "application/dicom+json")

    def _answer(self, status: int, body: bytes, content_type: str, *, close: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if close:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        running.seen = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_data_are_valid_and_the_manifest_is_what_the_files_say(made: manifest.Manifest) -> None:
    assert made.count() == 4 + 4 + 2
    assert manifest.load(made.root) == manifest.scan(made.root) == made
    shapes = set()
    for kind in manifest.KINDS:
        for path in made.files(kind):
            ds = pydicom.dcmread(path)
            assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
            assert [int(element.tag) for element in ds] == sorted(int(element.tag) for element in ds)
            shapes.add(ds.pixel_array.shape)
    assert shapes == {(512, 512), (8, 8), (3, 512, 512, 3), (2, 512, 512, 3)}


def test_a_large_object_is_as_large_as_said(tmp_path: Path) -> None:
    name = data.large(tmp_path / "large.dcm", 7, 1)
    ds = pydicom.dcmread(tmp_path / "large.dcm")
    assert (ds.SOPInstanceUID, ds.NumberOfFrames) == (name, 3)
    assert len(ds.PixelData) == 9 * 2**20


def test_compressed_instances_hold_the_pixels_that_answers_are_compared_with(
    made: manifest.Manifest, tmp_path: Path
) -> None:
    stored = transcode.make(made, tmp_path / "jpeg2000", 3, 2)
    files = [pydicom.dcmread(path) for path in stored.files]
    assert len({ds.SOPInstanceUID for ds in files}) == len(set(stored.paths)) == 6
    for position, (path, ds) in enumerate(zip(stored.files, files, strict=True)):
        assert ds.file_meta.TransferSyntaxUID == pydicom.uid.JPEG2000Lossless
        assert f"/instances/{ds.file_meta.MediaStorageSOPInstanceUID}/frames/1" in stored.paths[position]
        assert by_gdcm(path.read_bytes()).PixelData == stored.pixels_of(position)


def test_every_job_is_sent_once_over_few_connections(made: manifest.Manifest, server: ThreadingHTTPServer) -> None:
    files = made.files("small")
    jobs = [*map(load.by_rest, files), load.by_stow(files)] * 5
    posted = post.post_all(server.server_port, jobs, 3)
    seen = server.seen  # type: ignore[attr-defined]
    assert len(posted.seconds) == len(seen) == len(jobs)
    assert sorted({(path, parts) for path, _, parts in seen}) == [("/dicom-web/studies", len(files)), ("/instances", 1)]
    assert [status for status, _, _ in posted.refused] == [503]


def test_reader_knows_where_answers_end(server: ThreadingHTTPServer) -> None:
    reader = get.Reader(server.server_port)
    sizes = [reader.get(path, "*/*") for path in ("/json", "/unbounded", "/chunked", "/multipart", "/unbounded")]
    reader.close()
    assert sizes == [46, 3_000_000, len(CHUNKED), len(MULTIPART), 3_000_000]
    sample = get.closed_loop(server.server_port, ["/json", "/multipart"], 2, 6, "*/*", "identity")
    assert sample.requests == 6


def test_answers_are_compared_by_what_is_in_them(server: ThreadingHTTPServer) -> None:
    archive = archives.parse(f"anor=http:{server.server_port},dimse:4242,pid:1,pid:2")
    assert (archive.pids, archive.aet) == ((1, 2), "ANOR")
    assert answers.digest(archive, "/multipart", "*/*", "identity").lengths == (3, 5)
    assert answers.digest(archive, "/json", "*/*", "identity").uids == {"1.2"}
    assert "empty answer" in answers.disagreements([archive], ["/empty"], "*/*", "identity")["anor"]


def test_floors_are_judged_from_medians(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    servers = [archives.parse(f"{name}=http:1") for name in ("anor", "sqlite", "pg")]
    rates = {"anor": iter((90.0, 10.0, 80.0)), "sqlite": iter((4.0, 5.0, 6.0)), "pg": iter((10.0, 10.0, 10.0))}
    report = Report(servers, 3, tmp_path / "rows")
    report.compare(floors.BY_PATIENT, 8, lambda archive: Figures(next(rates[archive.name]), p99=21.0))
    verdicts = {
        (type(verdict.floor), verdict.value, verdict.passed)
        for verdict in floors.judge(read_rows(tmp_path / "rows"))
        if verdict.value is not None
    }
    assert verdicts == {(floors.AtLeast, 8.0, True), (floors.AtMost, 21.0, False)}
    assert not floors.show(floors.judge(report.rows), all_floors=False)
    assert "1 of 2 floors reached" in capsys.readouterr().out


def test_every_floor_names_a_test_that_exists() -> None:
    folder = Path(__file__).parent
    source = "".join(path.read_text() for path in folder.glob("*.py") if path.name != "floors.py")
    names = {name for name, value in vars(floors).items() if isinstance(value, str) and name.isupper()} - {"SUBJECT"}
    assert all(re.search(rf"\bfloors\.{name}\b", source) for name in names)
