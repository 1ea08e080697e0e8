"""Fixtures of all tests: a real PostgreSQL, a fresh migrated database per test, settings, a running server."""

import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from storage.archive import Archive, open_archive
from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate
from storage.settings import Settings, load_settings
from tests.support import Opened, RunningServer, running_server

pytest_plugins = ["tests.rgw"]

TEMPLATE = "anor_template"


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """An embedded PostgreSQL for the whole run: the wheel's, or the one that ANOR_POSTGRES_BIN names.

    It gives up durability for speed; tests about durability start their own.
    """
    programs = os.environ.get("ANOR_POSTGRES_BIN")
    with tempfile.TemporaryDirectory(prefix="anor-test-") as base:
        server = EmbeddedPostgres(
            Path(base), connections=300, programs=Path(programs) if programs else None, throwaway=True
        )
        with server:
            yield server


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def _create(postgres: EmbeddedPostgres, name: str, template: str) -> str:
    connection = await asyncpg.connect(postgres.admin_dsn)
    try:
        # Files are copied: for half of the work that it is to write every block of a template to the log.
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" OWNER anor STRATEGY file_copy')
    finally:
        await connection.close()
    return _with_database(postgres.dsn, name)


async def _drop(postgres: EmbeddedPostgres, name: str) -> None:
    connection = await asyncpg.connect(postgres.admin_dsn)
    try:
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await connection.close()


@pytest.fixture(scope="session")
async def migrated_template(postgres: EmbeddedPostgres) -> str:
    """The name of a database that has all migrations and no rows."""
    await migrate(await _create(postgres, TEMPLATE, "template1"))
    return TEMPLATE


@pytest.fixture
async def database_url(postgres: EmbeddedPostgres, migrated_template: str) -> AsyncIterator[str]:
    """The URL of a migrated, empty database for this test alone."""
    name = f"test_{secrets.token_hex(6)}"
    yield await _create(postgres, name, migrated_template)
    await _drop(postgres, name)


@pytest.fixture
async def empty_database_url(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The URL of a database without any table."""
    name = f"test_{secrets.token_hex(6)}"
    yield await _create(postgres, name, "template1")
    await _drop(postgres, name)


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Settings]:
    """A factory of Settings: data below tmp_path, this test's database unless `database_url` is given."""

    def make(**overrides: object) -> Settings:
        values: dict[str, object] = {"data": tmp_path / "data", "http_port": 0, "dimse_port": 0, "workers": 1}
        if "database_url" not in overrides and "database_url" in request.fixturenames:
            values["database_url"] = request.getfixturevalue("database_url")
        return load_settings(values | overrides, {}, None)[0]

    return make


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One `anor serve` with two workers for the whole run: a real process with everything embedded.

    Tests share it, so each uses identifiers of its own and leaves other studies alone.
    """
    with running_server(tmp_path_factory.mktemp("server"), fresh=True) as running:
        yield running


@pytest.fixture
def opened(settings: Callable[..., Settings], database_url: str) -> Opened:
    """Opens an archive without a server, for as long as a context lasts; those of one test share a database."""

    @asynccontextmanager
    async def open_with(**more: object) -> AsyncIterator[Archive]:
        archive = await open_archive(settings(**{"database_url": database_url, **more}))
        try:
            yield archive
        finally:
            await archive.close()

    return open_with
