"""`anor dicomize`: slides of scanners into the archive, to another one by STOW-RS, or into a directory."""

import asyncio
import http.client
import json
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, get_args
from urllib.parse import urlsplit
from uuid import uuid4

import uvloop
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from api.cli_archive import archive_at
from api.cli_logging import configure_logging
from api.cli_options import fail
from dicomweb.errors import ArchiveError, BadQuery
from storage.access import LOCAL
from storage.archive import Archive
from storage.embedded import EmbeddedError, database
from storage.migrate import MigrationError
from storage.settings import Settings
from wsi.convert.options import Options, Profile
from wsi.convert.run import ConversionFailed, Converted, convert, describe
from wsi.convert.store import store_files

_MAX_METADATA: Final = 1 << 20
_ANSWER_MAX: Final = 1 << 20
_TIMEOUT: Final = 300.0
_FAILED_SEQUENCE: Final = "00081198"


class Refused(Exception):
    """The other archive did not store an instance."""


class _Sink(Protocol):
    """Where converted slides go; `folder` is the directory that they are written into first."""

    folder: Path

    async def take(self, slide: Path, done: Converted) -> str:
        """Keep the files; says where they are."""
        ...


def run_dicomize(
    settings: Settings,
    slides: Sequence[Path],
    given: Mapping[str, object],
    *,
    to: str | None,
    out: Path | None,
    metadata: Path | None,
    label_image: Path | None,
    icc: str,
    headers: Sequence[str],
    dry_run: bool,
    quiet: bool,
) -> int:
    """Convert one slide after the other; one that fails does not stop the others. The exit status."""
    configure_logging("error")
    if to is not None and out is not None:
        fail("--to and --out exclude each other", 2)
    missing = [str(path) for path in slides if not path.is_file() and not path.is_dir()]
    if missing:
        fail(f"no such file: {', '.join(missing)}", 2)
    try:
        options = Options.parse({**given, **_metadata(metadata), **_files(label_image, icc)})
    except BadQuery as error:
        fail(f"--{error.message}", 2)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if dry_run:
                return runner.run(_describe_all(settings, slides, options))
            if out is not None:
                return runner.run(_convert_all(settings, slides, options, _Directory(out), quiet=quiet))
            if to is not None:
                with tempfile.TemporaryDirectory(prefix="anor-dicomize-") as folder:
                    peer = _Peer(to, headers, Path(folder))
                    return runner.run(_convert_all(settings, slides, options, peer, quiet=quiet))
            settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
            with database(settings) as url:
                return runner.run(_into_archive(settings, url, slides, options, quiet=quiet))
    except (ArchiveError, EmbeddedError, MigrationError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        fail("interrupted", 130)


def _metadata(path: Path | None) -> dict[str, object]:
    if path is None:
        return {}
    try:
        if path.stat().st_size > _MAX_METADATA:
            fail(f"{path} is larger than 1 MiB", 2)
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        fail(f"{path} is no JSON file: {error}", 2)
    return {"metadata": found}


def _files(label_image: Path | None, icc: str) -> dict[str, object]:
    """The options that name files here: a picture of the label, a profile that is none of the standard ones."""
    said: dict[str, object] = {} if label_image is None else {"label_file": str(label_image.absolute())}
    if icc in get_args(Profile):
        return said | {"icc": icc}
    return said | {"icc_file": str(Path(icc).absolute())}


async def _into_archive(settings: Settings, url: str, slides: Sequence[Path], options: Options, *, quiet: bool) -> int:
    async with archive_at(settings, url, migrates=True) as archive:
        with tempfile.TemporaryDirectory(prefix="dicomize-", dir=settings.data) as folder:
            return await _convert_all(settings, slides, options, _Archive(archive, Path(folder)), quiet=quiet)


async def _convert_all(
    settings: Settings, slides: Sequence[Path], options: Options, sink: _Sink, *, quiet: bool
) -> int:
    failed = 0
    for slide in slides:
        try:
            with tempfile.TemporaryDirectory(prefix=".part-", dir=sink.folder) as folder:
                done = await _with_progress(settings, slide, Path(folder), options, quiet=quiet)
                where = await sink.take(slide, done)
        except (ConversionFailed, Refused, ArchiveError) as error:
            failed += 1
            _complain(slide, error)
            continue
        print(f"{slide}: series {done.series}, {len(done.files)} instances {where}")
    return 1 if failed else 0


def _complain(slide: Path, error: Exception) -> None:
    Console(stderr=True, highlight=False).print(f"[red]{escape(str(slide))}:[/red] {escape(str(error))}")


async def _with_progress(settings: Settings, slide: Path, folder: Path, options: Options, *, quiet: bool) -> Converted:
    if quiet:
        return await convert(settings, slide, folder, options)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(slide.name), total=None)
        return await convert(
            settings, slide, folder, options, lambda done, total: bar.update(task, completed=done, total=total)
        )


async def _describe_all(settings: Settings, slides: Sequence[Path], options: Options) -> int:
    console, failed = Console(highlight=False), 0
    for slide in slides:
        try:
            said = await describe(settings, slide, options)
        except ConversionFailed as error:
            failed += 1
            _complain(slide, error)
            continue
        mpp = "unknown" if said["mpp"] is None else " x ".join(f"{value:g}" for value in said["mpp"])
        console.print(f"{escape(str(slide))}: {said['vendor']}, {mpp} µm a pixel")
        rows = Table(
            "level", "size", "tile", "frames", "made", "transfer syntax", "about", box=None, padding=(0, 2, 0, 0)
        )
        for level in said["levels"]:
            rows.add_row(
                str(level["level"]), f"{level['width']} x {level['height']}", " x ".join(map(str, level["tile"])),
                str(level["frames"]), level["made"], level["transfer_syntax"], f"{level['bytes'] / 1e6:,.1f} MB",
            )  # fmt: skip
        console.print(rows)
        console.print(f"pictures: {', '.join(said['pictures']) or 'none'}")
    return 1 if failed else 0


class _Directory:
    """A folder for each slide, named as its file; it appears when it is complete."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    async def take(self, slide: Path, done: Converted) -> str:
        """Raises Refused where the folder is there already."""
        target = self.folder / slide.stem
        if target.exists():
            raise Refused(f"{target} is there already")
        target.mkdir()
        for file in done.files:
            file.replace(target / file.name)
        return f"in {target}"


class _Archive:
    """The archive of the settings."""

    def __init__(self, archive: Archive, folder: Path) -> None:
        self._archive = archive
        self.folder = folder

    async def take(self, slide: Path, done: Converted) -> str:
        """Store them."""
        del slide
        await store_files(self._archive, LOCAL, done.files)
        return "stored"


class _Peer:
    """Another archive, by STOW-RS; one request an instance, streamed from its file."""

    def __init__(self, url: str, headers: Sequence[str], folder: Path) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            fail(f"--to is the DICOMweb root of an archive, as http://host/dicom-web, not {url}", 2)
        self._parts = parts
        self._headers = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in headers)}
        self.folder = folder

    async def take(self, slide: Path, done: Converted) -> str:
        """Send them. Raises Refused."""
        del slide
        for file in reversed(done.files):
            await asyncio.to_thread(self._send, file)
        return f"sent to {self._parts.hostname}"

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT)

    def _send(self, file: Path) -> None:
        boundary = uuid4().hex
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        connection = self._connect()
        try:
            connection.putrequest("POST", f"{self._parts.path.rstrip('/')}/studies")
            sent = {
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                "Content-Length": str(len(head) + file.stat().st_size + len(tail)),
                "Accept": "application/dicom+json",
            }
            for name, value in (sent | self._headers).items():
                connection.putheader(name, value)
            connection.endheaders(head)
            # Who refuses need not take the body first; what it answered says why.
            with suppress(BrokenPipeError, ConnectionResetError), file.open("rb") as body:
                connection.send(body)
                connection.send(tail)
            answer = connection.getresponse()
            text = answer.read(_ANSWER_MAX)
        except (OSError, http.client.HTTPException) as error:
            raise Refused(f"{self._parts.hostname} did not take {file.name}: {error}") from error
        finally:
            connection.close()
        if answer.status not in (200, 202) or _failed(text):
            raise Refused(f"{self._parts.hostname} did not take {file.name}: {answer.status} {answer.reason}")


def _failed(answer: bytes) -> bool:
    """Whether a Store Instances Response names an instance that failed (PS3.18 I.2.2); some servers answer in XML."""
    try:
        return _FAILED_SEQUENCE in json.loads(answer or b"{}")
    except ValueError:
        return _FAILED_SEQUENCE.encode() in answer
