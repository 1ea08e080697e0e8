"""The archive behind pgbouncer in transaction mode: no statement may count on the connection of the one before it."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from pydicom import dcmread

from dicomweb import qido
from dicomweb.tags import Level
from storage.access import LOCAL
from storage.archive import Archive, open_archive
from storage.process import choose_identity, prepare_child
from storage.provenance import Provenance
from storage.settings import Settings
from storage.worker import number_changes, sweep
from tests.files import ct, new_uid
from tests.support import free_port

CONNECTIONS = 3  # to the server: far fewer than the archive believes to have

CONFIGURATION = """
[databases]
{name} = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 200
"""


@pytest.fixture
def pooled_url(database_url: str, tmp_path: Path) -> Iterator[str]:
    """The database of this test, through a pgbouncer of its own."""
    program = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
    assert program is not None, "not found: pgbouncer (Debian: pgbouncer)"
    url = urlsplit(database_url)
    where = {name: values[0] for name, values in parse_qs(url.query).items()}
    own, name = free_port(), url.path[1:]
    said = {"name": name, "own": own, "connections": CONNECTIONS, "user": url.username, "password": url.password}
    file = tmp_path / "pgbouncer.ini"
    file.write_text(CONFIGURATION.format(**said, host=where["host"], port=where["port"]))
    pooler = subprocess.Popen(
        [program, str(file)],
        preexec_fn=prepare_child(choose_identity(), signal.SIGKILL),  # it refuses root
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"postgresql://anor:unused@127.0.0.1:{own}/{name}"
    finally:
        pooler.kill()
        pooler.wait(10)


@pytest.fixture
async def archive(settings: Callable[..., Settings], pooled_url: str) -> AsyncIterator[Archive]:
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            await (await asyncpg.connect(pooled_url, statement_cache_size=0)).close()
            break
        assert time.monotonic() < deadline, "pgbouncer does not answer"
        await asyncio.sleep(0.05)
    opened = await open_archive(
        settings(
            database_url=pooled_url, database_statement_cache=0, sweep_quarantine_s=0, tomb_grace_s=0, commit_batch=4
        )
    )
    yield opened
    await opened.close()


async def _store(archive: Archive, data: bytes) -> str:
    spool = archive.new_spool()
    await spool.write(data)
    return (await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))).status


async def test_a_life_behind_a_pooler(archive: Archive) -> None:
    study, series = new_uid(), new_uid()
    files = [ct(StudyInstanceUID=study, SeriesInstanceUID=series) for _ in range(24)]
    assert await asyncio.gather(*(_store(archive, file) for file in files)) == ["stored"] * 24
    assert await asyncio.gather(*(_store(archive, file) for file in files)) == ["identical"] * 24

    query = qido.parse(Level.INSTANCE, study, series, [], max_limit=100, default_limit=100)

    async def read(file: bytes) -> None:
        ds = dcmread(BytesIO(file))
        found = await archive.retrieve.instance(LOCAL, study, series, ds.SOPInstanceUID)
        assert await archive.retrieve.part(found, (0, found.size)) == file
        assert len((await archive.search.run(LOCAL, query, "http://here")).rows) == 24
        assert (await archive.retrieve.metadata(LOCAL, study, series, None, gzip=False)).version > 0

    await asyncio.gather(*(read(file) for file in files))
    assert await number_changes(archive) >= 24
    assert (await archive.statistics(LOCAL)).instances == 24
    await archive.lifecycle.delete(LOCAL, study)
    assert await sweep(archive) >= 24
    assert (await archive.statistics(LOCAL)).instances == 0
    rows = await archive.db.fetch_sql(
        "SELECT count(DISTINCT pid) AS n FROM pg_stat_activity WHERE datname = current_database()"
    )
    assert rows[0]["n"] <= CONNECTIONS
