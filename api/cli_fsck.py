"""`anor fsck`: index against object store; prints what does not fit."""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import uvloop
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from api.cli_archive import archive_at
from api.cli_logging import configure_logging
from api.cli_options import fail
from dicomweb.errors import ArchiveError
from storage.embedded import EmbeddedError, database
from storage.fsck import Check, Finding, Report
from storage.migrate import MigrationError
from storage.settings import Settings

_SHOWN = 20  # findings of one kind that are listed
_NOT_CHECKED = 2


def run_fsck(settings: Settings, *, deep: bool) -> int:
    """Compare, beside a running server or alone; 0 when all fits, 1 with findings, 2 when it cannot be checked."""
    configure_logging("warning")
    console = Console(highlight=False)
    shown: Counter[str] = Counter()

    def show(finding: Finding) -> None:
        shown[finding.kind] += 1
        if shown[finding.kind] <= _SHOWN:
            text = " ".join(part for part in (finding.uid, finding.key, finding.detail) if part)
            console.print(f"[red]{finding.kind}:[/red] {escape(text)}", soft_wrap=True)
        elif shown[finding.kind] == _SHOWN + 1:
            console.print(f"[red]{finding.kind}:[/red] more follow, see the count below")

    try:
        with database(settings) as url, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report = runner.run(_check(settings, url, show, deep=deep))
    except (ArchiveError, EmbeddedError, MigrationError, OSError) as error:
        fail(error, _NOT_CHECKED)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    _print(console, report, deep=deep)
    return 0 if report.sound else 1


async def _check(settings: Settings, url: str, show: Callable[[Finding], None], *, deep: bool) -> Report:
    async with archive_at(settings, url) as archive:
        with _status() as status:

            def progress(step: str, count: int) -> None:
                if status is not None:
                    status.update(f"{step}: {count:,} objects")

            return await Check(archive, show, progress).run(deep=deep)


def _status() -> AbstractContextManager[Status | None]:
    return Console(stderr=True).status("comparing") if sys.stderr.isatty() else nullcontext()


def _print(console: Console, report: Report, *, deep: bool) -> None:
    rows = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows.add_row("instances", f"{report.instances:,}", f"{report.bytes:,} bytes")
    rows.add_row("objects", f"{report.objects:,}", f"{report.object_bytes:,} bytes")
    rows.add_row("waiting for the sweeper", f"{report.waiting:,}", "")
    if report.overdue:
        rows.add_row("overdue", f"{report.overdue:,}", "[yellow]no worker seems to run[/yellow]")
    if deep:
        rows.add_row("read and compared", f"{report.read:,}", "")
    for kind, count in sorted(report.findings.items()):
        rows.add_row(f"[red]{kind}[/red]", f"[red]{count:,}[/red]", "")
    console.print(rows)
    console.print("nothing is wrong" if report.sound else f"[red]{sum(report.findings.values()):,} findings[/red]")
