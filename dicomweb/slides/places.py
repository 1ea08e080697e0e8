"""Where the frames of a TILED_SPARSE instance lie (PS3.3 C.8.12.6.1), read from its finished DICOM JSON.

The per-frame groups of a slide of 180,000 frames are 80 MB of JSON, and a gigabyte as Python objects. So they are never
parsed: the JSON is our own, in one form (ascending tags, no blanks), in which a quotation mark inside a text is always
escaped, so that the patterns below match attributes and nothing else.
"""

import re
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from dicomweb.errors import CorruptObject

Ints = NDArray[np.int32]

_PER_FRAME: Final = b'"52009230":{"vr":"SQ"'
_PIXEL_DATA: Final = b'"7FE00010":{'
_PLACE: Final = re.compile(
    rb'"0048021E":\{"vr":"[A-Z]{2}","Value":\[(-?\d{1,10})\]\},"0048021F":\{"vr":"[A-Z]{2}","Value":\[(-?\d{1,10})\]\}'
)
_DEPTH: Final = re.compile(rb'"0040074A":\{"vr":"[A-Z]{2}","Value":\["?(-?[0-9.eE+-]{1,24})"?\]\}')
_PATH: Final = re.compile(rb'"00480106":\{"vr":"SH","Value":\[("(?:[^"\\]|\\.){0,64}")\]\}')
_SEGMENT: Final = re.compile(rb'"0062000B":\{"vr":"[A-Z]{2}","Value":\[(\d{1,5})\]\}')
_INT32: Final = (-(2**31), 2**31 - 1)
_MAX_KINDS: Final = 1 << 16
_LEVEL: Final = 6


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """One entry a frame: `left` and `top` in pixels of the total matrix from 0, `path` and `depth` as indexes.

    `paths` are Optical Path Identifiers, `depths` Z offsets in µm; both are empty where the frames do not say them.
    """

    left: Ints
    top: Ints
    path: NDArray[np.uint16]
    depth: NDArray[np.uint16]
    paths: tuple[str, ...] = ()
    depths: tuple[float, ...] = ()

    def to_bytes(self) -> bytes:
        """For the index: compressed, about two bytes a frame."""
        head = orjson.dumps({"frames": len(self.left), "paths": self.paths, "depths": self.depths})
        arrays = (np.diff(self.left, prepend=0), np.diff(self.top, prepend=0), self.path, self.depth)
        packed = (
            array.astype(kind).tobytes() for array, kind in zip(arrays, ("<i4", "<i4", "<u2", "<u2"), strict=True)
        )
        return zlib.compress(b"\n".join((head, b"".join(packed))), _LEVEL)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Places":
        """The inverse of `to_bytes`. Raises CorruptObject."""
        try:
            head, _, body = zlib.decompress(data).partition(b"\n")
            said: dict[str, Any] = orjson.loads(head)
            count = said["frames"]
            steps = np.frombuffer(body, "<i4", 2 * count).reshape(2, count)
            left, top = np.cumsum(steps, axis=1, dtype=np.int32)
            path, depth = np.frombuffer(body, "<u2", 2 * count, 8 * count).reshape(2, count)
        except (zlib.error, ValueError, KeyError) as error:
            raise CorruptObject("the places of a slide's frames are damaged") from error
        return cls(left, top, path, depth, tuple(said["paths"]), tuple(said["depths"]))


def split_metadata(text: bytes) -> tuple[bytes, tuple[int, int]]:
    """The DICOM JSON object of an instance without its per-frame groups, and where these are in `text`.

    An empty place when there are none. Linear in the text, and nothing of the groups is parsed.
    """
    start = text.find(_PER_FRAME)
    if start < 0:
        return text, (0, 0)
    end = text.rfind(_PIXEL_DATA, start)
    before = text[:start]
    if end > 0 and _is_object(whole := before + text[end:]):
        return whole, (start, end)
    whole = before.rstrip(b",") + b"}"
    return (whole, (start, len(text))) if _is_object(whole) else (text, (0, 0))


def _is_object(text: bytes) -> bool:
    """Whether what is left is whole: a cut inside an item leaves a brace open."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def read_places(text: bytes, where: tuple[int, int], frames: int) -> Places | None:
    """The places of `frames` frames from their groups, which are at `where` in `text`.

    None unless there is one position for each frame. Optical path and Z offset count where every frame has its own;
    otherwise they are those of the whole instance.
    """
    found = _PLACE.findall(text, *where)
    if not frames or len(found) != frames:
        return None
    positions = np.fromiter((int(number) for pair in found for number in pair), np.int64, 2 * frames)
    del found
    corners = np.clip(positions - 1, *_INT32).astype(np.int32).reshape(frames, 2)
    path, paths = _kinds(_PATH, text, where, frames)
    depth, depths = _kinds(_DEPTH, text, where, frames)
    return Places(
        np.ascontiguousarray(corners[:, 0]),
        np.ascontiguousarray(corners[:, 1]),
        path,
        depth,
        tuple(str(orjson.loads(name)).strip() for name in paths),
        tuple(_number(value) for value in depths),
    )


def read_segments(text: bytes, where: tuple[int, int], frames: int) -> Ints | None:
    """The Referenced Segment Number of each of `frames` frames; None unless there is one for each."""
    if not where[1] or not frames:
        return None
    kind, segments = _kinds(_SEGMENT, text, where, frames)
    return np.array([int(each) for each in segments], np.int32)[kind] if segments else None


def _kinds(
    pattern: re.Pattern[bytes], text: bytes, where: tuple[int, int], frames: int
) -> tuple[NDArray[np.uint16], list[bytes]]:
    """Values by their index among those that differ; nothing when they are not one for each frame."""
    first = pattern.search(text, *where)
    if first is None:
        return np.zeros(frames, np.uint16), []
    if text.count(first[0], *where) == frames:  # the same in all frames: counting takes a tenth of the time
        return np.zeros(frames, np.uint16), [first[1]]
    values = pattern.findall(text, *where)
    numbers: dict[bytes, int] = {}
    if len(values) == frames:
        places = np.fromiter((numbers.setdefault(value, len(numbers)) for value in values), np.int64, frames)
        if len(numbers) <= _MAX_KINDS:
            return places.astype(np.uint16), list(numbers)
    return np.zeros(frames, np.uint16), []


def _number(value: bytes) -> float:
    try:
        return float(value)
    except ValueError:
        return 0.0
