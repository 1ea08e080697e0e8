"""`anor status`, `anor config`, `anor migrate`, `anor transcode`: what is there, and what was done."""

import asyncio
import http.client
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.cli_archive import archive_at
from api.cli_logging import configure_logging
from api.cli_options import fail
from dicomweb.errors import ArchiveError
from storage.access import LOCAL
from storage.archive import Statistics, open_archive
from storage.embedded import EmbeddedError, database, database_url
from storage.migrate import MigrationError, ServerFacts, facts, migrate
from storage.setting_checks import mask_secret
from storage.settings import Settings, shown, table
from storage.stored_syntax import Progress, begin_anew, progress

_TIMEOUT = 10.0


def run_migrate(settings: Settings) -> int:
    """Migrate, starting the embedded database for the time where it does not run; the exit status."""
    configure_logging("warning")
    try:
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with database(settings) as url:
            outcome = asyncio.run(migrate(url, report=print))
    except (EmbeddedError, MigrationError, OSError) as error:
        fail(error)
    if not outcome.migrations and not outcome.functions:
        print(f"nothing to do: the database is at version {outcome.after}")
    else:
        print(f"the database is at version {outcome.after} (was {outcome.before})")
    return 0


def run_config(settings: Settings, origins: Mapping[str, str]) -> int:
    """Print every setting with its value and origin."""
    console = Console(highlight=False)
    rows = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("setting", "value", "from"):
        rows.add_column(heading, overflow="fold")
    section = ""
    for setting in table():
        if setting.about.section != section:
            section = setting.about.section
            rows.add_row(f"[bold]{section}[/bold]")
        value = escape(shown(setting, getattr(settings, setting.name)))
        origin = origins[setting.name]
        style = "dim" if origin == "default" else ""
        rows.add_row(setting.name, value, escape(origin), style=style)
    console.print(rows)
    return 0


def run_status(settings: Settings) -> int:
    """Ask the HTTP server, the database and the object store; 1 where one of them does not answer."""
    configure_logging("error")
    console = Console(highlight=False)
    rows = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows.add_column(overflow="fold")
    rows.add_column(overflow="fold")
    rows.add_row("Anor", version("anor"))
    well = _http_rows(settings, rows)
    well = _database_rows(settings, rows) and well
    console.print(rows)
    return 0 if well else 1


def run_transcode(settings: Settings) -> int:
    """Have the worker begin anew with the rules; the exit status."""
    configure_logging("warning")
    if not settings.transcode:
        fail("there are no rules: set ANOR_TRANSCODE, for the server too (infra/docs/configuration.md)")
    try:
        with database(settings) as url:
            asyncio.run(_begin_anew(settings, url))
    except (EmbeddedError, MigrationError, ArchiveError, OSError) as error:
        fail(error)
    print("the worker looks at everything that is stored; `anor status` tells how far it is")
    return 0


async def _begin_anew(settings: Settings, url: str) -> None:
    async with archive_at(settings, url) as archive:
        await begin_anew(archive)


def _http_rows(settings: Settings, rows: Table) -> bool:
    try:
        said = json.loads((settings.data / "server.json").read_text("utf-8"))
    except (OSError, ValueError):
        rows.add_row("HTTP", f"[red]no server runs for {escape(str(settings.data))}[/red]")
        return False
    address = urlsplit(str(said["url"]))
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/readyz", headers={"Connection": "close"})
        answer = connection.getresponse()
        body = json.loads(answer.read() or b"{}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        rows.add_row("HTTP", f"[red]{escape(said['url'])} does not answer: {escape(str(error))}[/red]")
        return False
    finally:
        connection.close()
    ready = answer.status == http.HTTPStatus.OK
    text = "ready" if ready else "not ready: " + "; ".join(map(str, body.get("reasons", [])))
    rows.add_row("HTTP", f"{escape(said['url'])} (process {said['pid']}): {escape(text)}")
    if said["dimse_port"]:
        rows.add_row("DIMSE", f"{said['aet']} port {said['dimse_port']}")
    return ready


def _database_rows(settings: Settings, rows: Table) -> bool:
    try:
        url = database_url(settings)
        known = asyncio.run(_ask(settings, url))
    except (EmbeddedError, MigrationError, ArchiveError, OSError) as error:
        rows.add_row("database", f"[red]{escape(str(error))}[/red]")
        return False
    server, contents = known
    place = mask_secret(url) if settings.database_url else f"embedded in {settings.data / 'postgres'}"
    rows.add_row("database", f"PostgreSQL {server.server}, {escape(place)}")
    current = server.version == server.wanted
    wanted = "" if current else f" [red](this program needs {server.wanted}: run `anor migrate`)[/red]"
    rows.add_row("schema", f"version {server.version}{wanted}")
    rows.add_row("index size", _size(server.bytes))
    rows.add_row("objects", escape(settings.objects_location))
    if contents is not None:
        totals, transcoded, damaged = contents
        for name in ("patients", "studies", "series", "instances"):
            rows.add_row(name, f"{getattr(totals, name):,}")
        rows.add_row("stored", _size(totals.bytes))
        if damaged:
            rows.add_row("damaged", f"[red]{damaged:,} missing or damaged objects: `anor fsck` names them[/red]")
        if transcoded is not None:
            saved = ("-" if transcoded.saved < 0 else "") + _size(abs(transcoded.saved))
            rows.add_row(
                "transcoded",
                f"{transcoded.done:,} instances, {saved} saved; {transcoded.failed:,} could not be,"
                f" {transcoded.waiting:,} changes to look at",
            )
    rows.add_row("free on disk", _size(_free(settings.data)))
    return current


async def _ask(settings: Settings, url: str) -> tuple[ServerFacts, tuple[Statistics, Progress | None, int] | None]:
    server = await facts(url)
    if server.version != server.wanted:
        return server, None
    archive = await open_archive(settings)
    try:
        return server, (await archive.statistics(LOCAL), await progress(archive), await archive.damage.count())
    finally:
        await archive.close()


def _free(path: Path) -> int:
    import shutil

    return shutil.disk_usage(path).free


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
