"""Rates of the object stores: `python -m tests.bench.object_clients [--rounds 3]`.

Against a real Ceph RGW that it starts itself (one gateway, one OSD, loopback): our S3 store (obstore), bare obstore and
boto3 with 16 threads, all at concurrency 16, in turn, several rounds, medians. Then the directory store.
"""

import argparse
import asyncio
import resource
import secrets
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import obstore
import uvloop
from botocore.config import Config
from obstore.store import S3Store as Client

from storage.directory_store import DirectoryStore
from storage.s3_config import client_config, client_options
from storage.s3_store import S3Store
from storage.settings import Settings, load_settings
from tests.rgw import Rgw, running_rgw

LARGE, SMALL = 530_000, 5_000
CONCURRENCY = 16
KEYS = 64


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Table:
    """Rates and CPU times by row and column, in the order of their first appearance."""

    def __init__(self) -> None:
        self.rates: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)

    async def measure(self, row: str, column: str, count: int, work: Callable[[], Awaitable[None]]) -> None:
        began, cpu = time.perf_counter(), cpu_seconds()
        await work()
        self.rates[row, column].append((count / (time.perf_counter() - began), (cpu_seconds() - cpu) / count * 1e3))

    def show(self) -> None:
        rows, columns = dict.fromkeys(row for row, _ in self.rates), dict.fromkeys(column for _, column in self.rates)
        print(f"| per second (client CPU ms each) | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
        for row in rows:
            cells = []
            for column in columns:
                found = self.rates.get((row, column))
                cells.append("" if not found else " ".join(
                    (f"{statistics.median(rate for rate, _ in found):,.0f}",
                     f"({statistics.median(cpu for _, cpu in found):.2f})")))  # fmt: skip
            print(f"| {row} | {' | '.join(cells)} |")


async def spread(count: int, workers: int, call: Callable[[int], Awaitable[object]]) -> None:
    """`call(n)` for n below `count`, `workers` at a time."""

    async def work(first: int) -> None:
        for number in range(first, count, workers):
            await call(number)

    await asyncio.gather(*(work(first) for first in range(workers)))


async def in_threads(count: int, pool: ThreadPoolExecutor, call: Callable[[int], object]) -> None:
    await asyncio.to_thread(lambda: list(pool.map(call, range(count))))


def boto3_client(rgw: Rgw) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=rgw.endpoint,
        region_name=rgw.region,
        aws_access_key_id=rgw.access_key,
        aws_secret_access_key=rgw.secret_key,
        config=Config(
            max_pool_connections=CONCURRENCY,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"},
        ),
    )


async def measure_s3(rgw: Rgw, table: Table, settings: Settings, rounds: int) -> None:
    bucket, body = settings.objects_location.removeprefix("s3://"), secrets.token_bytes(LARGE)
    store = S3Store.from_settings(settings)
    bare = Client(bucket, config=client_config(settings, bucket), client_options=client_options(settings))
    client, pool = boto3_client(rgw), ThreadPoolExecutor(CONCURRENCY)
    keys = [f"1/20260131/{secrets.token_hex(16)}" for _ in range(KEYS)]
    for key in keys:
        await store.put(key, [body], LARGE)

    def fresh() -> str:
        return f"1/20260131/{secrets.token_hex(16)}"

    def key_of(number: int) -> str:
        return keys[number % KEYS]

    def boto_get(number: int, span: str | None) -> bytes:
        more = {"Range": span} if span else {}
        return bytes(client.get_object(Bucket=bucket, Key=key_of(number), **more)["Body"].read())

    async def bare_get(number: int) -> None:
        await (await obstore.get_async(bare, key_of(number))).bytes_async()

    for _ in range(rounds):
        for size, name, count in ((LARGE, "put 530 KB", 160), (SMALL, "put 5 KB", 320)):
            part = body[:size]
            await table.measure(
                name,
                "our S3 store",
                count,
                lambda part=part, size=size, count=count: spread(
                    count, CONCURRENCY, lambda _: store.put(fresh(), [part], size)
                ),
            )
            await table.measure(
                name,
                "bare obstore",
                count,
                lambda part=part, count=count: spread(
                    count, CONCURRENCY, lambda _: obstore.put_async(bare, fresh(), part, use_multipart=False)
                ),
            )
            await table.measure(name, "boto3, 16 threads", count, lambda part=part, count=count: in_threads(
                count, pool, lambda _: client.put_object(Bucket=bucket, Key=fresh(), Body=part)))  # fmt: skip
        for length, name, count in ((4_096, "range get 4 KB", 1600), (262_144, "range get 256 KB", 800)):
            await table.measure(
                name,
                "our S3 store",
                count,
                lambda length=length, count=count: spread(
                    count, CONCURRENCY, lambda n: store.get_range(key_of(n), 1_000, length)
                ),
            )
            await table.measure(
                name,
                "bare obstore",
                count,
                lambda length=length, count=count: spread(
                    count, CONCURRENCY, lambda n: obstore.get_range_async(bare, key_of(n), start=1_000, length=length)
                ),
            )
            await table.measure(name, "boto3, 16 threads", count, lambda length=length, count=count: in_threads(
                count, pool, lambda n: boto_get(n, f"bytes=1000-{999 + length}")))  # fmt: skip
        await table.measure(
            "get 530 KB", "our S3 store", 480, lambda: spread(480, CONCURRENCY, lambda n: store.get(key_of(n)))
        )
        await table.measure("get 530 KB", "bare obstore", 480, lambda: spread(480, CONCURRENCY, bare_get))
        await table.measure(
            "get 530 KB", "boto3, 16 threads", 480, lambda: in_threads(480, pool, lambda n: boto_get(n, None))
        )
    pool.shutdown()
    client.close()
    await store.close()


async def measure_directory(table: Table, base: Path, rounds: int) -> None:
    store, body = DirectoryStore(base), secrets.token_bytes(LARGE)
    keys = [f"1/20260131/{secrets.token_hex(16)}" for _ in range(KEYS)]
    for key in keys:
        await store.put(key, [body], LARGE)
    for _ in range(rounds):
        for workers in (1, 8):
            column = f"concurrency {workers}"
            for size, name, each in ((LARGE, "put 530 KB", 50), (SMALL, "put 5 KB", 250)):
                count = each * min(workers, 4)

                async def put(_: int, part: bytes = body[:size], size: int = size) -> None:
                    await store.put(f"1/20260131/{secrets.token_hex(16)}", [part], size)

                await table.measure(name, column, count, partial(spread, count, workers, put))
            for length, name in ((4_096, "range get 4 KB"), (524_288, "range get 512 KB")):

                async def get(number: int, length: int = length) -> None:
                    await store.get_range(keys[number % KEYS], 1_000, length)

                await table.measure(name, column, 2_000, partial(spread, 2_000, workers, get))
    await store.close()


async def run(rounds: int, base: Path, *, nodelay: bool) -> None:
    with running_rgw(nodelay=nodelay) as rgw:
        table = Table()
        await measure_s3(
            rgw, table, load_settings({"data": base, **rgw.settings(rgw.new_bucket())}, {}, None)[0], rounds
        )
        print(f"\nCeph RGW, concurrency {CONCURRENCY}, beast with tcp_nodelay={int(nodelay)}")
        table.show()
    table = Table()
    await measure_directory(table, base / "objects", rounds)
    print(f"\nDirectory store below {base}, reads from the page cache")
    table.show()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay", action="store_true", help="leave tcp_nodelay of the gateway off, as Ceph does")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anor-bench-") as base:
        uvloop.run(run(arguments.rounds, Path(base), nodelay=not arguments.delay))


if __name__ == "__main__":
    main()
