"""`python -m tests.bench`: run the whole benchmark, or a piece of it."""

import os
import random
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from . import (
    archives,
    data,
    dimse,
    floors,
    footprint,
    ingest,
    load,
    manifest,
    peer,
    read,
    rest,
    sink,
    slides,
    static,
    transcode,
    viewer,
)
from .archives import Archive
from .manifest import Manifest
from .report import Report, machine, read_rows, say

_QUICK = data.Sizes(ct_studies=4, ct_instances=50, small_studies=60, small_instances=20)
_NEARLY_EMPTY = 3  # CT studies of 200 instances

app = typer.Typer(
    help="Anor and Orthanc side by side. infra/docs/benchmark.md tells how to read the result.",
    no_args_is_help=True,
    add_completion=False,
)


@dataclass(frozen=True, slots=True)
class Options:
    """What the flags before the command say."""

    work: Path
    data: Path
    results: Path
    repeats: int
    seconds: int
    only: re.Pattern[str]
    peers: tuple[peer.Index, ...]
    running: tuple[Archive, ...]
    quick: bool
    with_anor: bool

    def manifest(self) -> Manifest:
        """The data to work with; generated when there are none."""
        if not self.data.exists():
            say(f"making data in {self.data}")
            return data.generate(self.data, _QUICK if self.quick else data.Sizes())
        return manifest.load(self.data)

    def wants(self, test: str) -> bool:
        """Whether `--only` selects the test."""
        return bool(self.only.search(test))

    def report(self, servers: Sequence[Archive]) -> Report:
        """A report whose rows go to the results file."""
        return Report(servers, self.repeats, self.results)


@app.callback()
def options(  # noqa: PLR0917 - one parameter per flag
    context: typer.Context,
    work: Annotated[
        Path, typer.Option(help="Where archives, the peer and results go: on the disk to be measured.")
    ] = Path("/var/tmp/anor-bench"),
    data_folder: Annotated[Path | None, typer.Option("--data", help="DICOM data to use. [default: WORK/data]")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON lines are added here. [default: WORK/results.jsonl]")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds per test; medians are reported.")] = 3,
    seconds: Annotated[int, typer.Option(min=1, help="Length of one wrk run.")] = 2,
    only: Annotated[str, typer.Option(help="Tests whose name this regular expression finds.")] = "",
    peers: Annotated[str, typer.Option(help="Orthanc's indexes to compare with, or an empty text.")] = "sqlite,pg",
    running: Annotated[
        list[str] | None,
        typer.Option(
            help="Use a running server: anor|sqlite|pg=http:PORT[,dimse:PORT][,pid:N…][,aet:NAME]. Repeatable."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Little data and one round: does it run at all?")] = False,
    with_anor: Annotated[bool, typer.Option("--anor/--no-anor", help="Without Anor: only the peers' figures.")] = True,
) -> None:
    """Flags of all commands; they come before the command."""
    work = work / "quick" if quick else work
    work.mkdir(parents=True, exist_ok=True)
    indexes: list[peer.Index] = [index for index in ("sqlite", "pg") if index in peers.split(",")]
    context.obj = Options(
        work=work,
        data=data_folder or work / "data",
        results=out or work / "results.jsonl",
        repeats=1 if quick else repeats,
        seconds=1 if quick else seconds,
        only=re.compile(only),
        peers=tuple(indexes),
        running=tuple(archives.parse(text) for text in running or ()),
        quick=quick,
        with_anor=with_anor,
    )


@contextmanager
def _servers(chosen: Options, state: str, *, keep_peers: bool, deep_stacks: bool = False) -> Iterator[list[Archive]]:
    """Anor over an empty directory, and the peers; or the servers that run already."""
    if chosen.running:
        yield list(chosen.running)
        return
    with ExitStack() as stack:
        started: list[Archive] = []
        if chosen.with_anor:
            started.append(stack.enter_context(archives.anor(chosen.work / state / "anor", fresh=True)).archive)
        if chosen.peers:
            place = _peer(chosen)
            preload = peer.deep_stacks(place) if deep_stacks else None
            for index in chosen.peers:
                server = peer.orthanc(place, chosen.work, index, state, fresh=not keep_peers, preload=preload)
                started.append(stack.enter_context(server))
                say(f"{index}: Orthanc {peer.version(started[-1])}")
        yield started


@contextmanager
def _filled(chosen: Options, content: Manifest, state: str = "filled") -> Iterator[list[Archive]]:
    """The same with all the data in them; the peers' copy of the full data is kept."""
    with _servers(chosen, state, keep_peers=state == "filled") as servers:
        for archive in servers:
            load.fill(archive, content)
        yield servers


def _peer(chosen: Options) -> peer.Peer:
    """One chroot for quick and full runs, with separate archives."""
    if not chosen.quick:
        return peer.prepare(chosen.work)
    place = peer.prepare(chosen.work.parent)
    return replace(place, home=place.home / "quick")


@app.command("data")
def make_data(context: typer.Context) -> None:
    """Make the data again (2.5 GB)."""
    chosen: Options = context.obj
    made = data.generate(chosen.data, _QUICK if chosen.quick else data.Sizes())
    say(f"{made.count()} instances in {made.root}")


@app.command("peer")
def make_peer(context: typer.Context) -> None:
    """Set Orthanc up and start it once."""
    chosen: Options = context.obj
    with _servers(replace(chosen, with_anor=False), "trial", keep_peers=False) as servers:
        say(f"{len(servers)} peers start and answer")
    shutil.rmtree(chosen.work / "trial", ignore_errors=True)


@app.command("load")
def fill(context: typer.Context) -> None:
    """Fill the archives with all data and stop: the peers' copy is kept for later runs of `read`."""
    chosen: Options = context.obj
    content = chosen.manifest()
    with _filled(chosen, content):
        say("filled")


@app.command("ingest")
def store(context: typer.Context) -> None:
    """Storing into empty archives."""
    chosen: Options = context.obj
    content = chosen.manifest()
    with _servers(chosen, "empty", keep_peers=False) as servers:
        report = chosen.report(servers)
        ingest.run(report, content, chosen.wants)
        sink.run(report, content, chosen.wants, chosen.work)
    _verdict(report)


Piece = Callable[[Options, Manifest, Report], None]


def _read(chosen: Options, content: Manifest, report: Report) -> None:
    if chosen.wants(floors.FIRST):
        read.first_touch(report, content)
    read.run(report, read.full_tests(content), chosen.wants, chosen.seconds)
    if chosen.wants(floors.STATIC) and report.archives[0].name == "anor":
        report.rows += static.run(report.archives[0], content, chosen.work, chosen.repeats, chosen.results).rows


def _rest(chosen: Options, content: Manifest, report: Report) -> None:
    rest.run(report, content, chosen.wants, chosen.work, chosen.seconds)


def _dimse(chosen: Options, content: Manifest, report: Report) -> None:
    dimse.run(report, content, chosen.wants)


def _store(chosen: Options, content: Manifest, report: Report) -> None:
    ingest.run_in_full(report, chosen.wants, chosen.work, 0.1 if chosen.quick else 1)


def _in_full_archives(context: typer.Context, *pieces: Piece) -> None:
    chosen: Options = context.obj
    content = chosen.manifest()
    with _filled(chosen, content) as servers:
        report = chosen.report(servers)
        for piece in pieces:
            piece(chosen, content, report)
    _verdict(report)


@app.command("read")
def get(context: typer.Context) -> None:
    """Reading from full archives, and whole series against nginx."""
    _in_full_archives(context, _read)


@app.command("rest")
def ask_as_orthanc(context: typer.Context) -> None:
    """Orthanc's own REST API: descriptions, tags, search, archives from full archives; deletion."""
    _in_full_archives(context, _rest)


@app.command("dimse")
def ask(context: typer.Context) -> None:
    """C-FIND and C-GET from full archives."""
    _in_full_archives(context, _dimse)


@app.command("ingest-full")
def store_more(context: typer.Context) -> None:
    """Storing into full archives; what was stored is deleted afterwards."""
    _in_full_archives(context, _store)


@app.command("full")
def all_in_full_archives(context: typer.Context) -> None:
    """All that is measured in full archives, after one filling: read, rest, dimse, ingest-full."""
    _in_full_archives(context, _read, _rest, _dimse, _store)


@app.command("small")
def nearly_empty(context: typer.Context) -> None:
    """Frames from nearly empty archives, where Orthanc's SQLite is at its best."""
    chosen: Options = context.obj
    content = chosen.manifest().part(_NEARLY_EMPTY, 0)
    with _filled(replace(chosen, peers=("sqlite",)), content, "small") as servers:
        report = chosen.report(servers)
        chosen_tests = read.frame_tests(content, random.Random(3), (1, 8), floors.NEARLY_EMPTY)
        read.run(report, chosen_tests, chosen.wants, chosen.seconds)
    _verdict(report)


@app.command("transcode")
def convert(context: typer.Context) -> None:
    """Frames stored in JPEG 2000, asked for uncompressed."""
    chosen: Options = context.obj
    folder = chosen.work / "jpeg2000"
    stored = transcode.make(chosen.manifest(), folder, 50 if chosen.quick else 100, transcode.SERIES)
    with _servers(chosen, "transcode", keep_peers=False, deep_stacks=True) as servers:
        report = chosen.report(servers)
        transcode.run(report, stored, chosen.wants, chosen.seconds)
    shutil.rmtree(folder)
    _verdict(report)


@app.command("slides")
def microscope(
    context: typer.Context,
    width: Annotated[int, typer.Option(help="Columns of the large slide, which is 7/8 as high.")] = 32_768,
) -> None:
    """Tiles of a whole slide, and manifests of slides that nobody asked for before."""
    chosen: Options = context.obj
    folder = chosen.work / "slides"
    made = slides.make(folder, 4_096 if chosen.quick else width, chosen.repeats)
    with _servers(chosen, "slides", keep_peers=False) as servers:
        report = chosen.report(servers)
        slides.run(report, made, chosen.wants, chosen.seconds)
    shutil.rmtree(folder)
    _verdict(report)


@app.command("footprint")
def cost(context: typer.Context) -> None:
    """Anor's start times, idle memory, and growth under 200 MiB objects."""
    chosen: Options = context.obj
    _verdict(footprint.run(chosen.work, chosen.results, chosen.repeats))


@app.command("viewer")
def look(
    context: typer.Context,
    slices: Annotated[int, typer.Option(help="Slices of 512 x 512 in the CT series.")] = 300,
) -> None:
    """A CT series opened in OHIF: seconds to the first image and to the whole stack, over each archive's DICOMweb."""
    chosen: Options = context.obj
    with _servers(chosen, "viewer", keep_peers=False) as servers:
        viewer.run(chosen.report(servers), chosen.work, 30 if chosen.quick else slices)


@app.command("floors")
def judge(context: typer.Context, results: Path | None = None) -> None:
    """The table of floors for a results file; the exit code says whether all are reached."""
    chosen: Options = context.obj
    raise typer.Exit(0 if floors.show(floors.judge(read_rows(results or chosen.results))) else 1)


@app.command("run")
def everything(context: typer.Context) -> None:
    """All of it, into a new results file; about three quarters of an hour on two cores."""
    chosen: Options = context.obj
    chosen.results.unlink(missing_ok=True)
    say(machine(chosen.work))
    for piece in (store, nearly_empty, all_in_full_archives, convert, microscope, cost):
        say(f"\n== {piece.__name__}")
        piece(context)
    judge(context)


def _verdict(report: Report) -> None:
    floors.show(floors.judge(report.rows), all_floors=False)


if __name__ == "__main__":
    os.umask(0o022)  # nginx's and PostgreSQL's accounts must enter the work folder
    app()
