"""Migrations against a real server, with SQL files made for the test."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from storage.migrate import Limits, MigrationError, load_scripts, migrate, pending

QUICK = Limits(other_migration=5, table_lock=0.2, attempts=3, statement=10)


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    for name in ("migrations", "functions"):
        (tmp_path / name).mkdir()
    (tmp_path / "migrations/0001_first.sql").write_text("CREATE TABLE thing (id int);\nINSERT INTO thing VALUES (1);\n")
    (tmp_path / "migrations/0002_second.sql").write_text("ALTER TABLE thing ADD COLUMN name text;\n")
    (tmp_path / "functions/answer.sql").write_text(
        "CREATE OR REPLACE FUNCTION answer() RETURNS int LANGUAGE sql AS 'SELECT 41'"
    )
    return tmp_path


async def fetchval(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_applies_in_order_once(empty_database_url: str, sql: Path) -> None:
    said: list[str] = []
    scripts = load_scripts(sql)
    assert await pending(empty_database_url, scripts) == (0, 2)
    first = await migrate(empty_database_url, scripts, report=said.append)
    assert (first.before, first.after) == (0, 2)
    assert first.migrations == ("0001_first", "0002_second")
    assert first.functions == ("answer",)
    assert said == ["applied 0001_first", "applied 0002_second", "updated functions in answer"]
    again = await migrate(empty_database_url, scripts)
    assert (again.before, again.after, again.migrations, again.functions) == (2, 2, (), ())
    assert await pending(empty_database_url, scripts) == (2, 2)
    assert await fetchval(empty_database_url, "SELECT count(*) FROM thing WHERE name IS NULL") == 1


async def test_functions_follow_their_files(empty_database_url: str, sql: Path) -> None:
    await migrate(empty_database_url, load_scripts(sql))
    (sql / "functions/answer.sql").write_text(
        "CREATE OR REPLACE FUNCTION answer() RETURNS int LANGUAGE sql AS 'SELECT 42'"
    )
    # A function that calls one whose file comes later
    (sql / "functions/a_caller.sql").write_text(
        "CREATE OR REPLACE FUNCTION a_caller() RETURNS int LANGUAGE sql AS 'SELECT later()'"
    )
    (sql / "functions/later.sql").write_text(
        "CREATE OR REPLACE FUNCTION later() RETURNS int LANGUAGE sql AS 'SELECT answer()'"
    )
    outcome = await migrate(empty_database_url, load_scripts(sql))
    assert outcome.functions == ("a_caller", "answer", "later")
    assert await fetchval(empty_database_url, "SELECT a_caller()") == 42


async def test_a_failing_file_leaves_nothing(empty_database_url: str, sql: Path) -> None:
    (sql / "migrations/0003_broken.sql").write_text("CREATE TABLE half (id int);\nSELECT * FROM missing;\n")
    with pytest.raises(MigrationError, match="0003_broken"):
        await migrate(empty_database_url, load_scripts(sql))
    assert await fetchval(empty_database_url, "SELECT to_regclass('half')") is None
    assert await fetchval(empty_database_url, "SELECT max(number) FROM anor_migration") == 2
    (sql / "migrations/0003_broken.sql").write_text("CREATE TABLE whole (id int);\n")
    assert (await migrate(empty_database_url, load_scripts(sql))).migrations == ("0003_broken",)


async def test_refuses_a_changed_file(empty_database_url: str, sql: Path) -> None:
    await migrate(empty_database_url, load_scripts(sql))
    first = sql / "migrations/0001_first.sql"
    first.write_bytes(first.read_bytes().replace(b"\n", b"\r\n"))  # another checkout's line ends are no change
    await migrate(empty_database_url, load_scripts(sql))
    first.write_text("CREATE TABLE thing (id bigint);\n")
    with pytest.raises(MigrationError, match=r"0001_first\.sql was changed"):
        await migrate(empty_database_url, load_scripts(sql))


async def test_refuses_a_newer_database(empty_database_url: str, sql: Path) -> None:
    await migrate(empty_database_url, load_scripts(sql))
    (sql / "migrations/0002_second.sql").unlink()
    with pytest.raises(MigrationError, match=r"version 2 \(0002_second\), newer than this program, which knows 1"):
        await migrate(empty_database_url, load_scripts(sql))
    with pytest.raises(MigrationError, match="newer"):
        await pending(empty_database_url, load_scripts(sql))


async def test_refuses_a_renamed_file(empty_database_url: str, sql: Path) -> None:
    await migrate(empty_database_url, load_scripts(sql))
    (sql / "migrations/0002_second.sql").rename(sql / "migrations/0002_other.sql")
    with pytest.raises(MigrationError, match="0002 second, this program has 0002_other".replace("0002 second", ".*")):
        await migrate(empty_database_url, load_scripts(sql))


async def test_many_at_once_apply_once(empty_database_url: str, sql: Path) -> None:
    (sql / "migrations/0003_slow.sql").write_text("SELECT pg_sleep(0.2);\nINSERT INTO thing VALUES (2);\n")
    outcomes = await asyncio.gather(*(migrate(empty_database_url, load_scripts(sql)) for _ in range(6)))
    applied = [name for outcome in outcomes for name in outcome.migrations]
    assert sorted(applied) == ["0001_first", "0002_second", "0003_slow"]
    assert await fetchval(empty_database_url, "SELECT count(*) FROM thing") == 2


async def test_waits_for_a_locked_table_without_queueing_for_ever(empty_database_url: str, sql: Path) -> None:
    await migrate(empty_database_url, load_scripts(sql))
    (sql / "migrations/0003_alter.sql").write_text("ALTER TABLE thing ADD COLUMN more int;\n")
    holder = await asyncpg.connect(empty_database_url)
    try:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("LOCK TABLE thing IN ACCESS SHARE MODE")
        with pytest.raises(MigrationError, match="stayed locked"):
            await migrate(empty_database_url, load_scripts(sql), limits=QUICK)
        running = asyncio.create_task(migrate(empty_database_url, load_scripts(sql), limits=QUICK))
        await asyncio.sleep(0.3)
        await transaction.rollback()
        assert (await running).migrations == ("0003_alter",)
    finally:
        await holder.close()


async def test_statement_timeout(empty_database_url: str, sql: Path) -> None:
    (sql / "migrations/0003_endless.sql").write_text("SELECT pg_sleep(60);\n")
    with pytest.raises(MigrationError, match="statement timeout"):
        await migrate(empty_database_url, load_scripts(sql), limits=Limits(statement=0.2))


async def test_says_where_it_cannot_connect(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="cannot connect"):
        await migrate(f"postgresql://a:b@/c?host={tmp_path}")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("0003_x.sql", "BEGIN;\nSELECT 1;\nCOMMIT;\n", "may not control it"),
        ("0004_gap.sql", "SELECT 1;\n", "expected number 0003"),
        ("0002_twice.sql", "SELECT 1;\n", "expected number 0003"),
        ("3_short.sql", "SELECT 1;\n", "is named NNNN"),
    ],
)
def test_rules_for_files(sql: Path, name: str, text: str, complaint: str) -> None:
    (sql / "migrations" / name).write_text(text)
    with pytest.raises(MigrationError, match=complaint):
        load_scripts(sql)


def test_our_own_files_load() -> None:
    scripts = load_scripts()
    assert scripts.version == len(scripts.migrations) >= 1
    assert scripts.functions
