"""Folders in which jobs work."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


@asynccontextmanager
async def workplace(data: Path, job: str) -> AsyncIterator[Path]:
    """An empty folder for a job, below the data directory; what a worker that died of the job left there is removed."""
    made = await asyncio.to_thread(_made, data, job)
    try:
        yield made
    finally:
        await asyncio.to_thread(shutil.rmtree, made, ignore_errors=True)


def _made(data: Path, job: str) -> Path:
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in data.glob(f"job-{job}-*"):
        shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"job-{job}-", dir=data))
