"""`anor import --from-orthanc`: everything of another archive that speaks Orthanc's REST API."""

from api.cli_import import print_summary, progress_bar, run_with_archive
from api.cli_logging import configure_logging
from api.cli_options import fail
from api.routes.orthanc.modalities import parsed
from api.routes.orthanc.remotes import declared
from storage.archive import Archive
from storage.importer import ImportProgress
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

    async def copy(archive: Archive) -> MigrationReport:
        async with source:
            if quiet:
                return await run_orthanc_import(archive, source, parsed, declared, jobs=jobs, verify=verify)
            with progress_bar() as progress:
                task = progress.add_task("copying", total=None, text="")

                def show(at: ImportProgress) -> None:
                    text = f"{at.stored} stored, {at.identical} there already, {at.failed} failed"
                    progress.update(task, completed=at.done, total=at.found, text=text)

                return await run_orthanc_import(
                    archive, source, parsed, declared, jobs=jobs, verify=verify, progress=show
                )

    try:
        report = run_with_archive(settings, copy)
    except SourceError as error:
        fail(error.why)
    _print(report)
    return report.exit_code


def _print(report: MigrationReport) -> None:
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
        ("peers and servers", extras.get("remotes", 0)),
        ("failed beside instances", report.problems),
    )
    print_summary(rows, sum(instances.values()), report)
