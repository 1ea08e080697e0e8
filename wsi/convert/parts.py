"""Concatenations: the frames of one instance in several, each of a bounded size (PS3.3 C.7.6.16.2.2.4)."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Final

from wsi.convert.source import BadSlide
from wsi.convert.writer import InstanceWriter

# What the attributes of a concatenation, and the end of the file, add to a header.
_MORE: Final = 512


def split(whole: InstanceWriter, most: int, uid: Callable[[str], str], tick: Callable[[], None]) -> list[Path]:
    """The files of a finished instance: its own where it has at most `most` bytes, else those of its parts.

    The file that was split is removed; its frames can be read until it is closed. `uid`: one for a name. `tick` is
    called for each frame. Raises BadSlide where a single frame takes more than `most`.
    """
    if whole.size <= most:
        return [whole.path]
    ranges = list(_ranges(whole, most))
    files = []
    for number, (first, end) in enumerate(ranges, 1):
        files.append(_part(whole, (number, len(ranges)), range(first, end), most, uid))
        for _ in range(first, end):
            tick()
    whole.path.unlink()
    return files


def _ranges(whole: InstanceWriter, most: int) -> Iterator[tuple[int, int]]:
    """First and last but one of the frames of each part."""
    fixed = whole.fixed + _MORE
    first, size = 0, fixed
    for index, each in enumerate(whole.sizes):
        if fixed + each + whole.each > most:
            raise BadSlide(f"an instance with a single frame takes more than {most} bytes")
        if size + each + whole.each > most:
            yield first, index
            first, size = index, fixed
        size += each + whole.each
    yield first, len(whole.sizes)


def _part(whole: InstanceWriter, place: tuple[int, int], frames: range, most: int, uid: Callable[[str], str]) -> Path:
    number, total = place
    ds, source = deepcopy(whole.dataset), str(whole.dataset.SOPInstanceUID)
    ds.SOPInstanceUID = uid(f"{source} part {number}")
    ds.SOPInstanceUIDOfConcatenationSource, ds.ConcatenationUID = source, uid(f"{source} concatenation")
    ds.InConcatenationNumber, ds.InConcatenationTotalNumber = number, total
    ds.ConcatenationFrameOffsetNumber, ds.NumberOfFrames = frames.start, len(frames)
    path = whole.path.with_name(f"{whole.path.stem}-{number:03}.dcm")
    writer = InstanceWriter(
        path, ds, whole.syntax, replace(whole.pixel, number_of_frames=len(frames)),
        offsets=whole.table, most=most, lossy=whole.lossy, ratio=whole.ratio,
    )  # fmt: skip
    try:
        for index in frames:
            writer.add(whole.frame(index))
        writer.finish()
    finally:
        writer.close()
    return path
