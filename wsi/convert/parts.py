"""The frames of one instance in several: one for each optical path or focal plane, and concatenations."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from wsi.convert.options import Options, Split
from wsi.convert.source import BadSlide
from wsi.convert.writer import InstanceWriter

# What the attributes of a concatenation, and the end of the file, add to a header.
_MORE: Final = 512

Tick = Callable[[], None]


def divided(whole: InstanceWriter, depths: Sequence[float], options: Options, tick: Tick) -> list[Path]:
    """The files of a finished instance: its own, or those that `options` asks for in its place.

    Its frames are in the order of TILED_FULL; `depths`: its focal planes in µm. The file of an instance that is divided
    is removed; its frames can be read until it is closed. `tick` is called for each frame. Raises BadSlide where a
    single frame takes more than an instance may.
    """
    paths = len(whole.dataset.OpticalPathSequence)
    groups = _groups(paths, len(depths), options.split)
    if len(groups) == 1:
        return _concatenated(whole, options, tick)
    files = []
    tiles = whole.pixel.number_of_frames // (paths * len(depths))
    for number, (some, planes) in enumerate(groups, 1):
        ds = deepcopy(whole.dataset)
        ds.SOPInstanceUID = options.uid(f"{whole.dataset.SOPInstanceUID} paths {some} planes {planes}")
        ds.InstanceNumber = int(ds.InstanceNumber) * 1000 + number
        ds.OpticalPathSequence = [ds.OpticalPathSequence[path] for path in some]
        ds.NumberOfOpticalPaths, ds.TotalPixelMatrixFocalPlanes = len(some), len(planes)
        if len(planes) == 1:
            _put_at(ds, depths[planes[0]])
        frames = [(path * len(depths) + plane) * tiles + tile
                  for path in some for plane in planes for tile in range(tiles)]  # fmt: skip
        part = _copied(whole, ds, frames, f"part-{number:02}", 0.0, tick)
        try:
            files += _concatenated(part, options, tick)
        finally:
            part.close()
    whole.path.unlink()
    return files


def _groups(paths: int, planes: int, how: Split) -> list[tuple[list[int], list[int]]]:
    """Which paths and planes each instance gets."""
    each_path = [[path] for path in range(paths)] if how in ("paths", "both") else [list(range(paths))]
    each_plane = [[plane] for plane in range(planes)] if how in ("planes", "both") else [list(range(planes))]
    return [(path, plane) for path in each_path for plane in each_plane]


def _put_at(ds: Dataset, depth: float) -> None:
    """Say where the only focal plane is: Z in µm."""
    ds.TotalPixelMatrixOriginSequence[0].ZOffsetInSlideCoordinateSystem = f"{depth:.10g}"
    measures = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if "SpacingBetweenSlices" in measures:
        del measures.SpacingBetweenSlices
    ds.ImagedVolumeDepth = float(measures.SliceThickness)


def _concatenated(whole: InstanceWriter, options: Options, tick: Tick) -> list[Path]:
    """As a concatenation where it is larger than an instance may be (PS3.3 C.7.6.16.2.2.4)."""
    ranges = list(_ranges(whole, options.instance_bytes, options.instance_frames))
    if len(ranges) == 1:
        return [whole.path]
    files = []
    source = str(whole.dataset.SOPInstanceUID)
    for number, frames in enumerate(ranges, 1):
        ds = deepcopy(whole.dataset)
        ds.SOPInstanceUID = options.uid(f"{source} part {number}")
        ds.SOPInstanceUIDOfConcatenationSource = source
        ds.ConcatenationUID = options.uid(f"{source} concatenation")
        ds.InConcatenationNumber, ds.InConcatenationTotalNumber = number, len(ranges)
        ds.ConcatenationFrameOffsetNumber = frames.start
        part = _copied(whole, ds, frames, f"{number:03}", whole.ratio, tick)
        part.close()
        files.append(part.path)
    whole.path.unlink()
    return files


def _ranges(whole: InstanceWriter, most: int, frames: int) -> Iterator[range]:
    """The frames of each part: of at most `most` bytes and `frames` frames, 0 for any."""
    most = most if most and whole.size > most else 0
    fixed = whole.fixed + _MORE
    first, size = 0, fixed
    for index, each in enumerate(whole.sizes):
        if most and fixed + each + whole.each > most:
            raise BadSlide(f"an instance with a single frame takes more than {most} bytes")
        if (most and size + each + whole.each > most) or (frames and index - first == frames):
            yield range(first, index)
            first, size = index, fixed
        size += each + whole.each
    yield range(first, len(whole.sizes))


def _copied(
    whole: InstanceWriter, ds: Dataset, frames: Sequence[int], name: str, ratio: float, tick: Tick
) -> InstanceWriter:
    """A finished instance with some of the frames; to be closed."""
    ds.NumberOfFrames = len(frames)
    writer = InstanceWriter(
        whole.path.with_name(f"{whole.path.stem}-{name}.dcm"), ds, whole.syntax,
        replace(whole.pixel, number_of_frames=len(frames)),
        offsets=whole.table, most=whole.size, lossy=whole.lossy, ratio=ratio,
    )  # fmt: skip
    try:
        for index in frames:
            writer.add(whole.frame(index))
            tick()
        writer.finish()
    except BaseException:
        writer.close()
        raise
    return writer
