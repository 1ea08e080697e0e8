"""`anor export`: a slide of the archive as a TIFF file."""

import asyncio
from contextlib import nullcontext
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from api.cli_archive import archive_at
from api.cli_logging import configure_logging
from api.cli_options import fail
from dicomweb.errors import ArchiveError
from dicomweb.uids import checked_uid
from storage.access import LOCAL
from storage.embedded import EmbeddedError, database
from storage.migrate import MigrationError
from storage.settings import Settings
from wsi.export import Layout, export


def run_export(settings: Settings, series: str, path: Path, *, plain: bool, quiet: bool) -> int:
    """Write the slide of a series to a file; the exit status."""
    configure_logging("error")
    if path.exists():
        fail(f"{path} is there already", 2)
    if not path.parent.is_dir():
        fail(f"there is no folder {path.parent}", 2)
    try:
        with database(settings) as url, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_export(settings, url, checked_uid(series, "series"), path, plain=plain, quiet=quiet))
    except (ArchiveError, EmbeddedError, MigrationError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


async def _export(settings: Settings, url: str, series: str, path: Path, *, plain: bool, quiet: bool) -> None:
    layout: Layout = "tiff" if plain else "ome"
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    async with archive_at(settings, url) as archive:
        with nullcontext() if quiet else bar:
            task = bar.add_task(path.name, total=None)
            await export(
                archive, LOCAL, series, path, layout, lambda done, total: bar.update(task, completed=done, total=total)
            )
