"""`anor import --from-orthanc`: everything of another archive that speaks Orthanc's REST API."""

import asyncio

import uvloop
from rich.console import Console
from rich.table import Table

from api.cli_import import print_failures, progress_bar
from api.cli_logging import configure_logging
from api.cli_options import fail
from api.routes.orthanc.modalities import parsed
from dicomweb.errors import ArchiveError
from storage.archive import open_archive
from storage.embedded import EmbeddedError, database
from storage.importer import ImportProgress
from storage.migrate import MigrationError, migrate, require_current
from storage.orthanc_connection import SourceError
from storage.orthanc_import import MigrationReport, run_orthanc_import
from storage.orthanc_source import OrthancSource
from storage.setting_checks import SettingError
from storage.settings import Settings


def run_migration(settings: Settings, url: str, *, jobs: int, verify: bool, quiet: bool) -> int:
    """Copy what the source at `url` has, with the running server's database or our own; the exit status."""
    configure_logging(settings.log_level)
    try:
        source = OrthancSource(settings, url, parallel=jobs)
    except SettingError as error:
        fail(error, 2)
    try:
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with database(settings) as dsn, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report = runner.run(_migrate(settings, dsn, source, jobs=jobs, verify=verify, quiet=quiet))
    except SourceError as error:
        fail(error.why)
    except (ArchiveError, EmbeddedError, MigrationError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        fail("interrupted; run it again to continue where it stopped", 130)
    _print(report)
    return report.exit_code


async def _migrate(
    settings: Settings, dsn: str, source: OrthancSource, *, jobs: int, verify: bool, quiet: bool
) -> MigrationReport:
    async with source:
        if settings.database_url is None:
            await migrate(dsn)
        else:
            await require_current(dsn)
        archive = await open_archive(settings)
        try:
            if quiet:
                return await run_orthanc_import(archive, source, parsed, jobs=jobs, verify=verify)
            with progress_bar() as progress:
                task = progress.add_task("copying", total=None, text="")

                def show(at: ImportProgress) -> None:
                    text = f"{at.stored} stored, {at.identical} there already, {at.failed} failed"
                    progress.update(task, completed=at.done, total=at.found, text=text)

                return await run_orthanc_import(archive, source, parsed, jobs=jobs, verify=verify, progress=show)
        finally:
            await archive.close()


def _print(report: MigrationReport) -> None:
    console = Console(highlight=False)
    counts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    instances, extras = report.instances, report.extras
    rows = (
        ("stored", instances.get("stored", 0)),
        ("replaced", instances.get("replaced", 0)),
        ("there already", instances.get("identical", 0)),
        ("there already, compared", instances.get("verified", 0)),
        ("deleted at the source meanwhile", instances.get("gone", 0)),
        ("failed", instances.get("failed", 0)),
        ("labels", extras.get("labels", 0)),
        ("metadata", extras.get("metadata", 0)),
        ("attachments", extras.get("attachments", 0)),
        ("protected patients", extras.get("protected", 0)),
        ("modalities", extras.get("modalities", 0)),
        ("failed beside instances", report.problems),
    )
    for name, count in rows:
        if count or name in {"stored", "failed"}:
            counts.add_row(name, f"{count:,}")
    console.print(counts)
    rate = sum(instances.values()) / max(report.seconds, 1e-9)
    console.print(f"{report.bytes / 1e6:,.1f} MB in {report.seconds:.1f} s, {rate:,.0f} instances/s")
    print_failures(console, report.failures, report.stopped)
