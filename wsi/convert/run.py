"""Starts conversions, listens to them, and ends those that hang."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from storage.settings import Settings
from wsi.convert.options import Options
from wsi.convert.source import is_dicom

log = logging.getLogger(__name__)

# What Python needs to find the program. Passwords and keys of the archive stay outside.
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TMPDIR", "HOME")
_LINE: Final = 16 << 20

Progress = Callable[[int, int], None]


class ConversionFailed(Exception):
    """The slide could not be converted; the message is for who asked for it."""


@dataclass(frozen=True, slots=True)
class Converted:
    """The DICOM files of a slide, the finest level first. `peak`: bytes of memory that it took."""

    study: str
    series: str
    files: tuple[Path, ...]
    peak: int


def nothing(_done: int, _total: int) -> None:
    """For those who do not watch."""


async def convert(
    settings: Settings, path: Path, out: Path, options: Options, progress: Progress = nothing
) -> Converted:
    """Write the files of a slide into the directory `out`. Raises ConversionFailed; cancelling ends the process."""
    answer = await _run(settings, path, out, options.prepared(), progress, dry_run=False)
    files = tuple(Path(name) for name in answer["files"])
    return Converted(answer["study"], answer["series"], files, answer["peak"])


async def describe(settings: Settings, path: Path, options: Options) -> dict[str, Any]:
    """What `convert` would write. Raises ConversionFailed."""
    return await _run(settings, path, path.parent, options.prepared(), nothing, dry_run=True)


async def _run(
    settings: Settings, path: Path, out: Path, options: Options, progress: Progress, *, dry_run: bool
) -> dict[str, Any]:
    request = {
        "path": str(Path.cwd() / path),
        "out": str(Path.cwd() / out),
        "options": options.as_json(),
        "dry_run": dry_run,
        "memory": settings.convert_memory + await asyncio.to_thread(_largest, path),
        "largest_file": settings.max_instance,
        "parent": os.getpid(),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m"),
        "wsi.convert.process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | {"OPENBLAS_NUM_THREADS": "1"},
        limit=_LINE,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(orjson.dumps(request) + b"\n")
        process.stdin.close()
        return await _listen(process, settings.convert_patience, progress)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _largest(path: Path) -> int:
    """Bytes of the largest DICOM file, which is mapped while it is scanned: address space, not memory."""
    try:
        files = [each for each in path.iterdir() if each.is_file()] if path.is_dir() else [path]
        return max((each.stat().st_size for each in files if is_dicom(each)), default=0)
    except OSError:
        return 0  # opening it says what is wrong


async def _listen(process: asyncio.subprocess.Process, patience: int, progress: Progress) -> dict[str, Any]:
    assert process.stdout is not None
    while True:
        try:
            async with asyncio.timeout(patience):
                line = await process.stdout.readline()
        except TimeoutError:
            raise ConversionFailed(f"the conversion made nothing for {patience} s and was ended") from None
        if not line.endswith(b"\n"):
            raise ConversionFailed("the conversion died: the file is damaged, or takes more memory than allowed")
        said = orjson.loads(line)
        if "trace" in said:
            log.error("a conversion failed: %s", said["trace"])
        if "error" in said:
            raise ConversionFailed(said["error"])
        if "result" in said:
            result: dict[str, Any] = said["result"]
            return result
        progress(said["done"], said["total"])
