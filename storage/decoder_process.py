"""A sandboxed decoder: `python -m storage.decoder_process FD MEMORY CPU_SECONDS`, started by `storage.decoders`.

One request a line on standard input, one answer a line on standard output, both JSON; bytes go through the shared
memory file FD. What a hostile code stream can reach from here: this memory, up to MEMORY bytes, for CPU_SECONDS a
frame. No file and no socket can be opened, and the kernel kills the process with its parent.
"""

import ctypes
import mmap
import os
import resource
import signal
import sys
import time
from io import FileIO
from typing import Any, BinaryIO, Final

import imagecodecs
import numpy as np
import orjson
from numpy.typing import NDArray

from dicomweb.errors import BadPixels
from dicomweb.pixels.decode import decode_frame, reduced_jpeg
from dicomweb.pixels.encode import recompressed
from dicomweb.pixels.image import ImagePixel, Pixels
from storage.process import open_status, peak_memory

# Descriptors are 0, 1, 2, the memory file, the duplicate that its map holds, and what the kernel says of this process;
# no number is free for another.
_SHARED_FD: Final = 3
_DESCRIPTORS: Final = 6
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
# The codecs' modules are loaded on their first use, which would be too late.
_CODECS: Final = (
    "dicomrle_decode", "htj2k_decode", "jpeg2k_decode", "jpeg8_decode", "jpegls_decode", "jpegsof3_decode",
    "jpegxl_decode", "jpegxl_decode_jpeg", "jpegxl_encode_jpeg", "png_decode",
)  # fmt: skip
# Memory of past frames is not given back by every codec: a fresh process takes over.
_FRAMES: Final = 20_000
_RESIDENT: Final = 512 << 20


def confine(memory: int) -> None:
    """Give up what decoding does not need. Irrevocable."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for codec in _CODECS:
        getattr(imagecodecs, codec)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))


class _Shared:
    """The memory file, mapped again when the parent changed its length.

    A map holds a duplicate of the descriptor. One is made before descriptors run out; each later one takes its place.
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, 0)

    def of(self, size: int) -> mmap.mmap:
        if len(self._map) != size:
            self._map.close()
            self._map = mmap.mmap(_SHARED_FD, size)
        return self._map


def _answer(request: dict[str, Any], shared: mmap.mmap) -> dict[str, Any]:
    data = shared[: request["length"]]
    out = request["out"]
    if request["action"] == "recompress":
        packed = recompressed(data)
        shared[out : out + len(packed)] = packed
        return {"bytes": len(packed)}
    if request["action"] == "restore":
        jpeg = bytes(imagecodecs.jpegxl_decode_jpeg(data, numthreads=1))
        shared[out : out + len(jpeg)] = jpeg
        return {"bytes": len(jpeg)}
    if request["action"] == "png":
        pixels = Pixels(_opaque(imagecodecs.png_decode(data)), "")
        return _pixels(pixels, shared, out)
    image = ImagePixel(**request["image"])
    if request["action"] == "reduce":
        pixels = reduced_jpeg(data, image, request["factor"])
    else:
        pixels = decode_frame(request["syntax"], data, image, request["threads"])
    return _pixels(pixels, shared, out)


def _opaque(picture: NDArray[Any]) -> NDArray[Any]:
    """A picture without its alpha channel."""
    if picture.ndim == 3 and picture.shape[2] in (2, 4):
        return picture[..., 0] if picture.shape[2] == 2 else picture[..., :3]
    return picture


def _pixels(pixels: Pixels, shared: mmap.mmap, out: int) -> dict[str, Any]:
    array = np.ascontiguousarray(pixels.array)
    view = np.frombuffer(shared, np.uint8, array.nbytes, out)
    view[:] = array.view(np.uint8).reshape(-1)
    del view
    return {"bytes": array.nbytes, "photometric": pixels.photometric}


def serve(shared: _Shared, seconds: int, status: FileIO, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the parent closes the pipe, or until this process has done its share."""
    for _ in range(_FRAMES):
        line = requests.readline()
        if not line:
            return
        request = orjson.loads(line)
        limit = int(time.process_time()) + 1 + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        try:
            answer = _answer(request, shared.of(request["size"]))
        except BadPixels as error:
            answer = {"error": error.message, "attribute": error.attribute}
        except MemoryError:
            answer = {"error": "decoding takes more memory than a frame may", "attribute": "PixelData"}
        except (RuntimeError, ValueError, IndexError, KeyError) as error:
            answer = {"error": f"the stream cannot be decoded ({type(error).__name__})", "attribute": "PixelData"}
        full = peak_memory(status) > _RESIDENT
        answers.write(orjson.dumps(answer | {"last": full}) + b"\n")
        answers.flush()
        if full:
            return


def main() -> None:
    """Serve with the descriptors in their places."""
    given, memory, seconds = (int(argument) for argument in sys.argv[1:])
    if given != _SHARED_FD:
        os.dup2(given, _SHARED_FD)
        os.close(given)
    shared, status = _Shared(_SHARED_FD), open_status()
    confine(memory)
    serve(shared, seconds, status, sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
