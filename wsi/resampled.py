"""The coarse levels that a slide lacks, as instances of its series whose Image Type ends with RESAMPLED."""

import asyncio
import mmap
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

from pydicom.dataset import Dataset

from dicomweb.frames import RECORD_SIZE
from dicomweb.pixels.image import ImagePixel
from dicomweb.rendered.attributes import items, numbers
from dicomweb.slides.derived import Planned, derived_image, derived_syntax, plan, without_derived
from dicomweb.slides.levels import Key
from dicomweb.slides.pyramid import Slide
from storage.access import Access
from storage.archive import Archive
from storage.jobs import Claimed, JobFailed
from storage.pixels import Image
from storage.retrieve import Located
from storage.slides import StoredSlide
from wsi.coarse import made_levels
from wsi.compose import Composer
from wsi.convert.attributes import code
from wsi.convert.source import BadSlide
from wsi.convert.writer import InstanceWriter

_KIND: Final = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
_RECORD: Final = struct.Struct("<QI")
# Of the shared functional groups, what tells where a single frame or plane is.
_PLACES: Final = frozenset(("0048021A", "00480207", "00209111", "00089124"))
# What belongs to the frames of the source: per-frame groups, concatenation, dimensions, palette, values, references.
_OF_SOURCE: Final = frozenset((
    "52009230", "00209161", "00209162", "00209163", "00209228", "00200242", "00209222", "7FE00001", "7FE00002",
    "7FE00010", "00281101", "00281102", "00281103", "00281201", "00281202", "00281203", "00281221", "00281222",
    "00281223", "00280106", "00280107", "00280004", "00280006", "0008114A", "00081140", "00082112", "00082111",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Output:
    """An instance to write: `keys` in the order of its frames, paths slower than planes."""

    level: Planned
    paths: tuple[str, ...]
    depths: tuple[float, ...]

    @property
    def keys(self) -> list[Key]:
        return list(product(self.paths, self.depths))

    @property
    def name(self) -> str:
        return f"{self.level.width} x {self.level.height} {self.paths!r} {self.depths!r}"


async def write_levels(
    archive: Archive, access: Access, series: str, job: Claimed, folder: Path, progress: Callable[[float], None]
) -> tuple[StoredSlide, list[Path]]:
    """Make the files of all levels that a slide lacks, the finest first; none where it lacks none.

    A job that is repeated makes the same instances. Raises NotFound, Unavailable, JobFailed.
    """
    stored = await archive.slides.slide(access, series)
    bare = replace(stored, slide=without_derived(stored.slide))
    planned = plan(bare.slide)
    if not planned:
        return stored, []
    table, spooled = await made_levels(archive, Composer(archive), access, bare, planned, progress)
    try:
        files = []
        outputs = [output for level in planned for output in _outputs(bare.slide, level)]
        for number, output in enumerate(outputs, 1):
            header = await _header(archive, access, bare, output, job)
            header.InstanceNumber = _last_number(bare.slide) + number
            path = folder / f"level-{number:02}.dcm"
            await asyncio.to_thread(_write, path, header, bare.slide, output, table, spooled.buffer())
            files.append(path)
    except (BadSlide, ValueError, TypeError) as error:  # pydicom's, of attributes that cannot be written
        raise JobFailed(f"a level cannot be written: {error}") from error
    finally:
        spooled.release()
    return stored, files


def _outputs(slide: Slide, level: Planned) -> list[_Output]:
    """One instance where all paths have the same planes, evenly apart, and alike pixels; else one for each of them."""
    paths, depths = tuple(dict.fromkeys(path for path, _ in level.first)), sorted({depth for _, depth in level.first})
    steps = {round(after - before, 3) for before, after in pairwise(depths)}
    forms = {_form(slide, level, key) for key in level.first}
    if len(level.first) == len(paths) * len(depths) and len(steps) < 2 and len(forms) == 1:
        return [_Output(level, paths, tuple(depths))]
    return [_Output(level, (path,), (depth,)) for path, depth in level.first]


def _source(slide: Slide, level: Planned, key: Key) -> int:
    """The place of an instance that the tiles of a path and plane were made of."""
    return slide.levels[level.source].maps[key].instances[0]


def _form(slide: Slide, level: Planned, key: Key) -> ImagePixel:
    image = replace(derived_image(slide.instances[_source(slide, level, key)].image), number_of_frames=1)
    # The IOD has no YBR_FULL (PS3.3 C.8.12.4.1.5); what is subsampled JPEG says itself.
    return replace(image, photometric="YBR_FULL_422") if image.samples > 1 else image


def _last_number(slide: Slide) -> int:
    return max((int(number) for each in slide.instances for number in numbers(each.dataset, "00200013")), default=0)


async def _header(archive: Archive, access: Access, stored: StoredSlide, output: _Output, job: Claimed) -> Dataset:
    """The attributes of an instance: those of its source, but for what its frames decide."""
    slide, level = stored.slide, output.level
    places = [_source(slide, level, key) for key in output.keys]
    bulk: dict[str, bytes] = {}
    for place in dict.fromkeys(places):
        tiled = slide.instances[place]
        image = Image(Located(stored.instances[place], ()), (), tiled.dataset, tiled.image)
        bulk |= await archive.rendering.referenced(access, image)
    source = slide.instances[places[0]]
    ds = _dataset({tag: value for tag, value in source.dataset.items() if tag not in _OF_SOURCE}, bulk)
    ds.SOPInstanceUID = f"2.25.{uuid5(NAMESPACE_OID, f'{job.id} {output.name}').int}"
    ds.ImageType, ds.DimensionOrganizationType = _KIND, "TILED_FULL"
    made = job.created_at
    ds.InstanceCreationDate = ds.ContentDate = made.strftime("%Y%m%d")
    ds.InstanceCreationTime = ds.ContentTime = made.strftime("%H%M%S")
    ds.DerivationDescription = f"Means of squares of {4**level.steps} x {4**level.steps} pixels"
    ds.SourceImageSequence = [_reference(ds, slide.instances[place].sop) for place in dict.fromkeys(places)]
    ds.ReferencedSeriesSequence = [_referenced_series(ds, stored.series)]
    ds.OpticalPathSequence = _paths(slide, output, bulk)
    _set_matrix(ds, source.width, source.height, output)
    _set_pixels(ds, _form(slide, level, output.keys[0]), level)
    return ds


def _dataset(item: Mapping[str, Any], bulk: Mapping[str, bytes]) -> Dataset:
    """From DICOM JSON, with the bulk values that are known; others are left out."""
    kept = _without_unknown(item, bulk)
    return Dataset.from_json(kept, bulk_data_uri_handler=lambda _tag, _vr, uri: bulk[uri])


def _without_unknown(item: Mapping[str, Any], bulk: Mapping[str, bytes]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for tag, element in item.items():
        if "BulkDataURI" in element and element["BulkDataURI"] not in bulk:
            continue
        kept[tag] = element
        if element.get("vr") == "SQ":
            kept[tag] = element | {"Value": [_without_unknown(each, bulk) for each in items(item, tag)]}
    return kept


def _reference(ds: Dataset, sop: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds.SOPClassUID, sop
    item.PurposeOfReferenceCodeSequence = [code("121322", "DCM", "Source of image processing operation")]
    return item


def _referenced_series(ds: Dataset, series: str) -> Dataset:
    """Common Instance Reference Module (PS3.3 C.12.2)."""
    found = Dataset()
    found.SeriesInstanceUID, found.ReferencedInstanceSequence = series, []
    for source in ds.SourceImageSequence:
        item = Dataset()
        item.ReferencedSOPClassUID = source.ReferencedSOPClassUID
        item.ReferencedSOPInstanceUID = source.ReferencedSOPInstanceUID
        found.ReferencedInstanceSequence.append(item)
    return found


def _paths(slide: Slide, output: _Output, bulk: Mapping[str, bytes]) -> list[Dataset]:
    """The items of the Optical Path Sequence, in the order of the frames (PS3.3 C.8.12.4.1.1)."""
    found = []
    for path in output.paths:
        dataset = slide.instances[_source(slide, output.level, (path, output.depths[0]))].dataset
        every = list(items(dataset, "00480105"))
        named = [item for item in every if path in _values(item, "00480106")]
        made = _dataset((named or every or [{}])[0], bulk)
        made.OpticalPathIdentifier = path
        found.append(made)
    return found


def _values(item: Mapping[str, Any], tag: str) -> list[str]:
    return [str(value).strip() for value in item.get(tag, {}).get("Value") or ()]


def _set_matrix(ds: Dataset, width: int, height: int, output: _Output) -> None:
    """Sizes, spacing and planes; `width`, `height`: of the source's matrix."""
    level = output.level
    ds.TotalPixelMatrixColumns, ds.TotalPixelMatrixRows = level.width, level.height
    ds.Rows, ds.Columns = level.rows, level.columns
    ds.TotalPixelMatrixFocalPlanes, ds.NumberOfOpticalPaths = len(output.depths), len(output.paths)
    ds.NumberOfFrames = level.across * level.down * len(output.keys)
    shared = ds.SharedFunctionalGroupsSequence[0] if ds.get("SharedFunctionalGroupsSequence") else Dataset()
    for tag in _PLACES:
        shared.pop(int(tag, 16), None)
    frame_type = Dataset()
    frame_type.FrameType = _KIND
    shared.WholeSlideMicroscopyImageFrameTypeSequence = [frame_type]
    if shared.get("PixelMeasuresSequence"):
        measures = shared.PixelMeasuresSequence[0]
        down, across = (float(value) for value in measures.PixelSpacing)
        spacing = down * height / level.height, across * width / level.width
        measures.PixelSpacing = [f"{value:.10g}" for value in spacing]
        if len(output.depths) > 1:
            measures.SpacingBetweenSlices = f"{(output.depths[1] - output.depths[0]) / 1000:.10g}"
    ds.SharedFunctionalGroupsSequence = [shared]
    if output.depths[0] and ds.get("TotalPixelMatrixOriginSequence"):
        ds.TotalPixelMatrixOriginSequence[0].ZOffsetInSlideCoordinateSystem = f"{output.depths[0]:.10g}"


def _set_pixels(ds: Dataset, image: ImagePixel, level: Planned) -> None:
    ds.Rows, ds.Columns = level.rows, level.columns
    ds.SamplesPerPixel, ds.PhotometricInterpretation = image.samples, image.photometric
    if image.samples > 1:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = image.bits_allocated, image.bits_stored, image.bits_stored - 1
    ds.PixelRepresentation = int(image.signed)


def _write(path: Path, ds: Dataset, slide: Slide, output: _Output, table: bytes, data: bytes | mmap.mmap) -> None:
    """The file, of tiles whose places in `data` the records of `table` say."""
    level = output.level
    image = _form(slide, level, output.keys[0])
    count = level.across * level.down
    pixel = replace(image, number_of_frames=count * len(output.keys))
    before = _lossy_before(ds)
    writer = InstanceWriter(path, ds, derived_syntax(image), pixel, offsets="basic", most=len(data), lossy=before)
    try:
        for key in output.keys:
            for number in range(level.first[key], level.first[key] + count):
                offset, size = _RECORD.unpack_from(table, RECORD_SIZE * number)
                writer.add(data[offset : offset + size])
        writer.finish()
    finally:
        writer.close()


def _lossy_before(ds: Dataset) -> tuple[tuple[str, float], ...]:
    """What the source lost already."""
    methods, ratios = (_listed(ds.get(name)) for name in ("LossyImageCompressionMethod", "LossyImageCompressionRatio"))
    return tuple((str(method), float(ratio)) for method, ratio in zip(methods, ratios, strict=False))


def _listed(value: Any) -> Sequence[Any]:
    return () if value is None else value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
