"""When a decoder is replaced: for the memory that it has taken itself."""

import resource
import subprocess
import sys
from io import FileIO
from pathlib import Path

from storage.process import peak_memory
from tests.support import ROOT, clean_environment

_GROWS = """
from storage.process import open_status, peak_memory
with open_status() as status:
    before = peak_memory(status)
    held = b"x" * (64 << 20)
    grown = peak_memory(status)
    del held
    print(before, grown, peak_memory(status))
"""

_STARTED_BY_A_LARGE_ONE = """
import asyncio
import imagecodecs
import numpy as np
from dicomweb.pixels.image import ImagePixel
from storage.decoders import DecoderPool
from storage.settings import Settings

async def main():
    picture = np.arange(64 * 64, dtype="u2").reshape(64, 64)
    stream = bytes(imagecodecs.jpegls_encode(picture, level=0))
    image = ImagePixel(64, 64, 1, 16, 16, False, 0, "MONOCHROME2", 1)
    pool = DecoderPool(Settings(decoders=1))
    for _ in range(3):
        found = await pool.decode("1.2.840.10008.1.2.4.80", stream, image)
        assert np.array_equal(found.array, picture)
    print(pool.size, pool.counters.starts)
    pool.close()

held = b"x" * (600 << 20)  # more than a decoder may have taken
del held
asyncio.run(main())
"""


def _run(script: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=clean_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [int(each) for each in done.stdout.split()]


def test_peak_memory_is_of_this_process_and_stays() -> None:
    before, grown, after = _run(_GROWS)  # of 64 MiB; the kernel counts each processor's pages roughly
    assert 32 << 20 < grown - before < 96 << 20
    assert after - before > 32 << 20


def test_a_kernel_that_says_less(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\n")
    with FileIO(tmp_path / "status") as status:
        assert peak_memory(status) == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def test_a_decoder_stays_that_a_large_process_has_started() -> None:
    size, starts = _run(_STARTED_BY_A_LARGE_ONE)
    assert size == 1
    assert starts == 1
