"""Numbered migrations and re-appliable functions: what makes a database fit the program.

`sql/migrations/NNNN_name.sql` run once each, in order, every one in its own transaction together with its record;
a file that was applied may not change any more. `sql/functions/*.sql` (CREATE OR REPLACE) run again whenever their
text changed. Everything works through pgbouncer in transaction mode: the lock is one of the transaction.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

SQL: Final = Path(__file__).parent / "sql"
MINIMUM_SERVER: Final = 15
LOCK_KEY: Final = 0x414E4F52  # "ANOR": one migration at a time per database


_RECORDS: Final = """
CREATE TABLE IF NOT EXISTS anor_migration (
    number int PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    milliseconds int NOT NULL,
    applied timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS anor_function (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""


class MigrationError(Exception):
    """The database cannot be brought to what this program needs; the message says why."""


@dataclass(frozen=True, slots=True)
class Script:
    """One SQL file; `number` is 0 for functions."""

    number: int
    name: str
    text: str
    checksum: str


@dataclass(frozen=True, slots=True)
class Scripts:
    """All SQL files of one program version."""

    migrations: tuple[Script, ...]
    functions: tuple[Script, ...]

    @property
    def version(self) -> int:
        """The number of the newest migration."""
        return self.migrations[-1].number if self.migrations else 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `migrate` did: the names of the files that it applied, and the version before and after."""

    before: int
    after: int
    migrations: tuple[str, ...]
    functions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """Waiting times in seconds: for another migration, for a table lock (then again), for one file."""

    other_migration: float = 120.0
    table_lock: float = 5.0
    attempts: int = 6
    statement: float = 1800.0


def load_scripts(directory: Path = SQL) -> Scripts:
    """Read the SQL files; raises MigrationError for a name, number or content that breaks the rules."""
    migrations = []
    for number, path in enumerate(sorted((directory / "migrations").glob("*.sql")), start=1):
        match = re.fullmatch(r"(\d{4})_[a-z0-9_]+", path.stem)
        if match is None:
            raise MigrationError(f"{path.name}: a migration is named NNNN_what_it_does.sql")
        if int(match[1]) != number:
            raise MigrationError(f"{path.name}: expected number {number:04d}; numbers have no gaps and are used once")
        migrations.append(_read(path, number))
    functions = [_read(path, 0) for path in sorted((directory / "functions").glob("*.sql"))]
    return Scripts(tuple(migrations), tuple(functions))


def _read(path: Path, number: int) -> Script:
    text = path.read_text("utf-8")
    if re.search(r"(?im)^\s*(begin|commit|rollback|start\s+transaction)(\s+(transaction|work))?\s*;", text):
        raise MigrationError(f"{path.name}: the file runs inside a transaction and may not control it")
    # Line ends do not count: the same file on every checkout.
    digest = hashlib.sha256("\n".join(text.splitlines()).strip().encode())
    return Script(number, path.stem, text, digest.hexdigest())


async def migrate(
    url: str,
    scripts: Scripts | None = None,
    *,
    limits: Limits | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Bring the database at `url` to the version of this program; `report` hears of every step.

    Safe to run at any time, by several processes at once, beside a program that serves: each file is one transaction
    with a lock timeout, so that waiting for a table never blocks others for long. Raises MigrationError where the
    server is too old, the database newer than the program, an applied file changed, or a file fails.
    """
    scripts = scripts or load_scripts()
    limits = limits or Limits()
    connection = await _connect(url)
    try:
        _require_server(connection)
        done, functions = await _applied(connection)
        _require_known(scripts, done)
        before = len(done)
        if before == scripts.version and all(functions.get(each.name) == each.checksum for each in scripts.functions):
            return Outcome(before, before, (), ())
        migrated = []
        for script in scripts.migrations[before:]:
            migrated += await _apply(connection, [script], limits)
            report(f"applied {script.name}")
        # All in one transaction: a server that runs meanwhile sees the old set or the new one.
        stale = [each for each in scripts.functions if functions.get(each.name) != each.checksum]
        updated = await _apply(connection, stale, limits) if stale else []
        if updated:
            report(f"updated functions in {', '.join(updated)}")
        return Outcome(before, scripts.version, tuple(migrated), tuple(updated))
    finally:
        await connection.close()


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a database says about itself: server version, our version in it, the one we need, its size in bytes."""

    server: str
    version: int
    wanted: int
    bytes: int


async def facts(url: str, scripts: Scripts | None = None) -> ServerFacts:
    """Ask without changing anything; raises MigrationError as `migrate` does."""
    scripts = scripts or load_scripts()
    connection = await _connect(url)
    try:
        _require_server(connection)
        done, _ = await _applied(connection)
        _require_known(scripts, done)
        row = await connection.fetchrow(
            "SELECT current_setting('server_version') AS server, pg_database_size(current_database()) AS bytes"
        )
        assert row is not None
        return ServerFacts(row["server"], len(done), scripts.version, row["bytes"])
    finally:
        await connection.close()


async def pending(url: str, scripts: Scripts | None = None) -> tuple[int, int]:
    """The database's version and the program's; raises MigrationError as `migrate` does, changes nothing."""
    found = await facts(url, scripts)
    return found.version, found.wanted


async def require_current(url: str) -> None:
    """Raise MigrationError unless the database is at the version of this program."""
    have, want = await pending(url)
    if have != want:
        raise MigrationError(f"the database is at version {have}, this program needs {want}: run `anor migrate`")


async def _connect(url: str) -> Connection:
    try:
        return await asyncpg.connect(url, statement_cache_size=0, timeout=15)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise MigrationError(f"cannot connect to the database: {str(error) or type(error).__name__}") from error


def _require_server(connection: Connection) -> None:
    version = connection.get_server_version()
    if version.major < MINIMUM_SERVER:
        raise MigrationError(f"the server is PostgreSQL {version.major}; version {MINIMUM_SERVER} or later is needed")


async def _applied(connection: Connection) -> tuple[list[tuple[int, str, str]], dict[str, str]]:
    """What the database has: migrations as (number, name, checksum) in order, and functions with their checksum."""
    if await connection.fetchval("SELECT to_regclass('anor_migration')") is None:
        return [], {}
    rows = await connection.fetch(
        "SELECT number, name, checksum FROM anor_migration UNION ALL"
        " SELECT 0, name, checksum FROM anor_function ORDER BY number"
    )
    done = [(row["number"], row["name"], row["checksum"]) for row in rows if row["number"]]
    return done, {row["name"]: row["checksum"] for row in rows if not row["number"]}


def _require_known(scripts: Scripts, done: Sequence[tuple[int, str, str]]) -> None:
    if len(done) > scripts.version:
        raise MigrationError(
            f"the database is at version {len(done)} ({done[-1][1]}), newer than this program, which knows"
            f" {scripts.version}: run the newer program"
        )
    for (number, name, checksum), script in zip(done, scripts.migrations, strict=False):
        if (number, name) != (script.number, script.name):
            raise MigrationError(f"the database has migration {number:04d} {name}, this program has {script.name}")
        if checksum != script.checksum:
            raise MigrationError(f"{name}.sql was changed after it had been applied: write a new migration instead")


async def _apply(connection: Connection, scripts: Sequence[Script], limits: Limits) -> list[str]:
    """Run the files in one transaction; again while a table is locked. Returns the names that were not there yet."""
    for attempt in range(1, limits.attempts + 1):
        try:
            async with connection.transaction():
                await _take_turn(connection, limits)
                return await _execute(connection, scripts, limits)
        except asyncpg.LockNotAvailableError as error:
            if attempt == limits.attempts:
                raise MigrationError(
                    f"{scripts[0].name}: a table stayed locked ({limits.attempts} tries of {limits.table_lock:g} s)"
                ) from error
            await asyncio.sleep(min(0.1 * 2**attempt, 5.0))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise MigrationError(f"{', '.join(each.name for each in scripts)}: {error}") from error
    raise AssertionError("the loop returns or raises")


async def _take_turn(connection: Connection, limits: Limits) -> None:
    """Wait until no other process migrates this database; the lock lasts as long as the transaction."""
    deadline = time.monotonic() + limits.other_migration
    while not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK_KEY):
        if time.monotonic() > deadline:
            raise MigrationError("another process has been migrating this database for too long")
        await asyncio.sleep(0.05)


async def _execute(connection: Connection, scripts: Sequence[Script], limits: Limits) -> list[str]:
    await connection.execute(_RECORDS)
    done, functions = await _applied(connection)
    applied = []
    for script in scripts:
        if script.number <= len(done) if script.number else functions.get(script.name) == script.checksum:
            continue  # another process was faster
        await connection.execute(
            f"SET LOCAL lock_timeout = {int(limits.table_lock * 1000)};"
            f"SET LOCAL statement_timeout = {int(limits.statement * 1000)};"
            "SET LOCAL check_function_bodies = off"  # functions may call each other, whatever the order of their files
        )
        begin = time.monotonic()
        await connection.execute(script.text)
        milliseconds = int((time.monotonic() - begin) * 1000)
        if script.number:
            await connection.execute(
                "INSERT INTO anor_migration (number, name, checksum, milliseconds) VALUES ($1, $2, $3, $4)",
                script.number, script.name, script.checksum, milliseconds,
            )  # fmt: skip
        else:
            await connection.execute(
                "INSERT INTO anor_function (name, checksum) VALUES ($1, $2)"
                " ON CONFLICT (name) DO UPDATE SET checksum = excluded.checksum, applied = clock_timestamp()",
                script.name, script.checksum,
            )  # fmt: skip
        applied.append(script.name)
    return applied
