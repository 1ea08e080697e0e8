"""What was drawn on a slide: measurements out of reports, groups of bulk annotations, and reports to be stored."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from dicomweb.errors import BadDicom, BadRequest, NotFound, TooLarge
from dicomweb.rendered.attributes import binary
from dicomweb.slides.bulk_annotations import (
    BULK_ANNOTATIONS,
    COORDINATES,
    GROUPS,
    INDEX,
    Group,
    Placement,
    Shapes,
    read_groups,
)
from dicomweb.slides.coordinates import SlideCoordinates
from dicomweb.slides.measurements import COMPREHENSIVE_3D_SR, Measurement, read_measurements
from storage.access import Access
from storage.archive import Archive
from storage.cache import Cache
from storage.once import Once
from storage.retrieve import Instance
from storage.slides import StoredSlide
from storage.study_objects import Found, StudyObject
from wsi.bulk import bulk
from wsi.drawn import Drawn, Modality, series_of
from wsi.manifest import mpp_of
from wsi.report import report

_CLASSES: Final = (COMPREHENSIVE_3D_SR, BULK_ANNOTATIONS)
# The text of the metadata of one object.
_LONGEST: Final = 32 << 20
# What is remembered of reports and of the attributes of annotations, as bytes of their text.
_REMEMBERED: Final = 32 << 20
# Coordinates of one group, in bytes: some 15 million polygons would have more.
_MAX_COORDINATES: Final = 1 << 30
# A rectangle has this many pixels of the screen to a side.
MAX_SIDE: Final = 2048
_TYPES: Final = {"00660016": "<f4", "00660022": "<f8"}


# Tenant, instance, group, version.
_Key = tuple[int, str, int, str]


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """What of an object is of use: measurements of a report (of any slide), or groups with their attributes."""

    instance: Instance
    dataset: dict[str, Any]
    groups: tuple[Group, ...]


class AnnotationService:
    """Annotations of slides. Methods take the caller's rights; what they may not see does not exist."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._read: Cache[tuple[int, str, str], _Read] = Cache(_REMEMBERED, kept=1)
        self._shapes: Cache[_Key, Shapes] = Cache(archive.settings.slide_cache_bytes, kept=1)
        self._loading: Once[_Key, Shapes] = Once()

    async def find(self, access: Access, stored: StoredSlide) -> Found:
        """The reports and annotations of the slide's study, whatever they refer to."""
        return await self._archive.study_objects.find(access, stored.study, _CLASSES, _LONGEST)

    async def listed(self, access: Access, stored: StoredSlide, found: Found) -> dict[str, Any]:
        """Measurements, in places of the finest level, and groups of annotations; see `shapes` for what is in these."""
        coordinates = coordinates_of(stored)
        measurements: list[dict[str, Any]] = []
        groups: list[dict[str, Any]] = []
        for each in found.objects:
            read = await self._attributes(access, each)
            names = {"instance": read.instance.sop, "series": read.instance.series}
            shown = [group for group in read.groups if _placement(group, stored, coordinates)]
            groups += [names | _described(group, _version(stored, read.instance)) for group in shown]
            if coordinates is not None and not read.groups:
                in_report = read_measurements(read.dataset, coordinates.frame_of_reference)
                measurements += [names | _placed(measurement, coordinates) for measurement in in_report]
        return {"measurements": measurements, "groups": groups, "left_out": found.left_out}

    async def shapes(self, access: Access, stored: StoredSlide, sop: str, number: int) -> tuple[str, Shapes]:
        """A group of annotations and its version. Raises NotFound, BadDicom for one that cannot be drawn, TooLarge."""
        instance = await self._archive.retrieve.instance(access, stored.study, None, sop)
        version = _version(stored, instance)
        key = (access.tenant, sop, number, version)
        held = self._shapes.get(key)
        if held is not None:
            return version, held
        return version, await self._loading.do(key, lambda: self._load_and_keep(key, access, stored))

    async def _load_and_keep(self, key: _Key, access: Access, stored: StoredSlide) -> Shapes:
        _, sop, number, _ = key
        found = await self._load(access, stored, sop, number)
        self._shapes.put(key, found, found.weight)
        return found

    async def _load(self, access: Access, stored: StoredSlide, sop: str, number: int) -> Shapes:
        found = await self.find(access, stored)
        each = next((each for each in found.objects if each.instance.sop == sop), None)
        read = None if each is None else await self._attributes(access, each)
        group = next((group for group in read.groups if group.number == number), None) if read else None
        coordinates = coordinates_of(stored)
        placement = None if group is None else _placement(group, stored, coordinates)
        if read is None or group is None or placement is None:
            raise NotFound("the slide has no such group of annotations")
        item = read.dataset[GROUPS]["Value"][group.place]
        tag = next((tag for tag in COORDINATES if tag in item), None)
        if tag is None:
            raise BadDicom("the group has no coordinates", attribute="PointCoordinatesData")
        flat = await self._array(access, read, group, tag, _TYPES[tag])
        index = await self._array(access, read, group, INDEX, "<u4") if INDEX in item else None
        return await asyncio.to_thread(Shapes.of, group, flat, index, placement)

    async def written(self, access: Access, stored: StoredSlide, modality: Modality, drawn: tuple[Drawn, ...]) -> bytes:
        """The file of a report (SR) or of bulk annotations (ANN); the caller is its author.

        Raises BadRequest for a report on a slide that does not say the size of its pixels.
        """
        access.require("dicom.write")
        coordinates = coordinates_of(stored)
        found = await self.find(access, stored)
        series = series_of(stored.series, modality)
        number = 1 + sum(each.instance.series == series for each in found.objects) + found.left_out
        header = stored.slide.instances[stored.slide.base.sample].dataset
        if modality == "ANN":
            return await asyncio.to_thread(bulk, header, coordinates, drawn, access.principal, number)
        if coordinates is None:
            raise BadRequest("the slide lacks Pixel Spacing, Frame of Reference or Image Orientation (Slide)")
        return await asyncio.to_thread(report, header, coordinates, drawn, access.principal, number)

    async def _attributes(self, access: Access, found: StudyObject) -> _Read:
        key = (access.tenant, found.instance.sop, found.instance.version)
        held = self._read.get(key)
        if held is not None:
            return held
        metadata = await self._archive.study_objects.metadata(found)
        dataset: dict[str, Any] = await asyncio.to_thread(lambda: orjson.loads(metadata.inflate()))
        groups = tuple(read_groups(dataset)) if found.instance.sop_class == BULK_ANNOTATIONS else ()
        read = _Read(found.instance, dataset, groups)
        self._read.put(key, read, found.length)
        return read

    async def _array(self, access: Access, read: _Read, group: Group, tag: str, kind: str) -> NDArray[Any]:
        """The numbers of an attribute of a group, which may be small enough to stand in its metadata."""
        element = read.dataset[GROUPS]["Value"][group.place][tag]
        value = binary(element, {}) if "BulkDataURI" not in element else None
        if value is None:
            instance = read.instance
            located = await self._archive.retrieve.bulk(
                access, instance.study, instance.series, instance.sop, f"{GROUPS}/{group.place}/{tag}"
            )
            if located.size(0) > _MAX_COORDINATES:
                raise TooLarge("the group has too many coordinates to be drawn")
            value = (await self._archive.retrieve.read_all(located))[0]
        width = np.dtype(kind).itemsize
        if len(value) % width:
            raise BadDicom("the value has no whole number of items", attribute=tag)
        return np.frombuffer(value, kind)


def coordinates_of(stored: StoredSlide) -> SlideCoordinates | None:
    """Those of the finest level; None where the slide does not say where it is, or what a pixel measures."""
    slide = stored.slide
    mpp = mpp_of(slide, slide.rungs[0])
    dataset = slide.instances[slide.base.sample].dataset
    return None if mpp is None else SlideCoordinates.of(dataset, [each / 1000 for each in mpp])


def _placement(group: Group, stored: StoredSlide, coordinates: SlideCoordinates | None) -> Placement | None:
    """How to place a group on the slide; None for one that belongs to another."""
    if not group.planar:
        same = coordinates is not None and coordinates.frame_of_reference == group.frame_of_reference
        return Placement(coordinates) if same else None
    image = next((each for each in stored.slide.instances if each.sop == group.image), None)
    if image is None or image.flavor in ("LABEL", "OVERVIEW"):
        return None
    base = stored.slide.base
    return Placement(None, (base.width / image.width, base.height / image.height))


def _version(stored: StoredSlide, instance: Instance) -> str:
    return f"{stored.name}-{instance.version}"


def _described(group: Group, version: str) -> dict[str, Any]:
    return {
        "number": group.number,
        "label": group.label,
        "type": group.kind,
        "shape": group.shape.lower(),
        "count": group.count,
        "colour": group.colour or None,
        "version": version,
    }


def _placed(measurement: Measurement, coordinates: SlideCoordinates) -> dict[str, Any]:
    return {
        "name": measurement.name,
        "finding": measurement.finding or None,
        "shape": measurement.shape.lower(),
        "points": np.round(coordinates.to_pixels(measurement.points), 2).tolist(),
        "values": [{"name": name, "value": value, "unit": unit} for name, value, unit in measurement.values],
    }
