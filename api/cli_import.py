"""`anor import`: a progress bar while it runs, a summary that says what failed and why."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import uvloop
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from api.cli_archive import archive_at
from api.cli_logging import configure_logging
from api.cli_options import fail
from dicomweb.errors import ArchiveError
from storage.archive import Archive
from storage.embedded import EmbeddedError, database
from storage.importer import Failure, ImportProgress, ImportReport, run_import
from storage.migrate import MigrationError
from storage.settings import Settings

if TYPE_CHECKING:  # it takes an HTTP client along
    from storage.orthanc_import import MigrationReport

T = TypeVar("T")

_SHOWN = 20  # failures of one reason that are listed by name


def run_import_command(settings: Settings, paths: Sequence[Path], *, jobs: int, quiet: bool) -> int:
    """Import, with the running server's database or, where none runs, with our own for the time; the exit status."""
    configure_logging(settings.log_level)
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        fail(f"no such file or folder: {', '.join(missing)}", 2)

    async def copy(archive: Archive) -> ImportReport:
        if quiet:
            return await run_import(archive, paths, jobs=jobs)
        with progress_bar() as progress:
            task = progress.add_task("importing", total=None, text="", files=0)

            def show(at: ImportProgress) -> None:
                text = f"{at.stored} stored, {at.identical} there already, {at.skipped} skipped, {at.failed} failed"
                progress.update(task, completed=at.done, total=at.found if at.complete else None, text=text)

            return await run_import(archive, paths, jobs=jobs, progress=show)

    report = run_with_archive(settings, copy)
    _print(report)
    return report.exit_code


def run_with_archive(settings: Settings, copy: Callable[[Archive], Awaitable[T]]) -> T:
    """Copy into the archive, whose own database is started and brought up to date; ends the program where it cannot."""
    try:
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with database(settings) as url, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_with_archive(settings, url, copy))
    except (ArchiveError, EmbeddedError, MigrationError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        fail("interrupted; run it again to continue where it stopped", 130)


async def _with_archive(settings: Settings, url: str, copy: Callable[[Archive], Awaitable[T]]) -> T:
    async with archive_at(settings, url, migrates=True) as archive:
        return await copy(archive)


def progress_bar() -> Progress:
    """A bar on standard error, with a text beside it."""
    return Progress(
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _print(report: ImportReport) -> None:
    rows = (
        ("stored", report.stored),
        ("replaced", report.replaced),
        ("there already", report.identical),
        ("kept the older one", report.kept),
        ("not DICOM", report.skipped),
        ("DICOMDIR", report.dicomdirs),
        ("failed", report.failed),
    )
    done = report.stored + report.replaced + report.identical + report.kept
    print_summary(rows, done, report)


def print_summary(rows: Sequence[tuple[str, int]], done: int, report: "ImportReport | MigrationReport") -> None:
    """The counts that are not 0, what `done` instances took, what failed by its reason, and an end before the end."""
    console = Console(highlight=False)
    counts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, count in rows:
        if count or name in {"stored", "failed"}:
            counts.add_row(name, f"{count:,}")
    console.print(counts)
    rate = done / max(report.seconds, 1e-9)
    console.print(f"{report.bytes / 1e6:,.1f} MB in {report.seconds:.1f} s, {rate:,.0f} instances/s")
    _print_failures(console, report.failures)
    if report.stopped:
        console.print(f"[red]stopped:[/red] {escape(report.stopped)}")


def _print_failures(console: Console, failures: Sequence[Failure]) -> None:
    reasons: dict[str, list[str]] = {}
    for failure in failures:
        reasons.setdefault(failure.reason, []).append(failure.path)
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        console.print(f"[red]{len(names)} failed:[/red] {escape(reason)}")
        for name in names[:_SHOWN]:
            console.print(f"  {escape(name)}", soft_wrap=True)
        if len(names) > _SHOWN:
            console.print(f"  and {len(names) - _SHOWN} more")
