"""`anor import`: a progress bar while it runs, a summary that says what failed and why."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

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

from api.cli_logging import configure_logging
from api.cli_options import fail
from dicomweb.errors import ArchiveError
from storage.archive import open_archive
from storage.embedded import EmbeddedError, database
from storage.importer import Failure, ImportProgress, ImportReport, run_import
from storage.migrate import MigrationError, migrate, require_current
from storage.settings import Settings

_SHOWN = 20  # failures of one reason that are listed by name


def run_import_command(settings: Settings, paths: Sequence[Path], *, jobs: int, quiet: bool) -> int:
    """Import, with the running server's database or, where none runs, with our own for the time; the exit status."""
    configure_logging(settings.log_level)
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        fail(f"no such file or folder: {', '.join(missing)}", 2)
    try:
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with database(settings) as url, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report = runner.run(_import(settings, url, paths, jobs=jobs, quiet=quiet))
    except (ArchiveError, EmbeddedError, MigrationError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        fail("interrupted; run it again to continue where it stopped", 130)
    _print(report)
    return report.exit_code


async def _import(settings: Settings, url: str, paths: Sequence[Path], *, jobs: int, quiet: bool) -> ImportReport:
    if settings.database_url is None:
        await migrate(url)
    else:
        await require_current(url)
    archive = await open_archive(settings)
    try:
        if quiet:
            return await run_import(archive, paths, jobs=jobs)
        with progress_bar() as progress:
            task = progress.add_task("importing", total=None, text="", files=0)

            def show(at: ImportProgress) -> None:
                text = f"{at.stored} stored, {at.identical} there already, {at.skipped} skipped, {at.failed} failed"
                progress.update(task, completed=at.done, total=at.found if at.complete else None, text=text)

            return await run_import(archive, paths, jobs=jobs, progress=show)
    finally:
        await archive.close()


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
    console = Console(highlight=False)
    counts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows = (
        ("stored", report.stored),
        ("replaced", report.replaced),
        ("there already", report.identical),
        ("kept the older one", report.kept),
        ("not DICOM", report.skipped),
        ("DICOMDIR", report.dicomdirs),
        ("failed", report.failed),
    )
    for name, count in rows:
        if count or name in {"stored", "failed"}:
            counts.add_row(name, f"{count:,}")
    console.print(counts)
    rate = (report.stored + report.replaced + report.identical + report.kept) / max(report.seconds, 1e-9)
    console.print(f"{report.bytes / 1e6:,.1f} MB in {report.seconds:.1f} s, {rate:,.0f} instances/s")
    print_failures(console, report.failures, report.stopped)


def print_failures(console: Console, failures: Sequence[Failure], stopped: str) -> None:
    """What failed, by its reason, and why an import ended before its end."""
    reasons: dict[str, list[str]] = {}
    for failure in failures:
        reasons.setdefault(failure.reason, []).append(failure.path)
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        console.print(f"[red]{len(names)} failed:[/red] {escape(reason)}")
        for name in names[:_SHOWN]:
            console.print(f"  {escape(name)}", soft_wrap=True)
        if len(names) > _SHOWN:
            console.print(f"  and {len(names) - _SHOWN} more")
    if stopped:
        console.print(f"[red]stopped:[/red] {escape(stopped)}")
