"""OME-TIFF: which page is which level, channel and focal plane, and what the XML says of the scan."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from xml.etree import ElementTree as ET

import numpy as np

from wsi.convert.source import BadSlide, Channel, PictureKind

_TO_MICROMETRES: Final = {"": 1.0, "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
_TO_NANOMETRES: Final = {"": 1.0, "nm": 1.0, "µm": 1e3, "μm": 1e3, "um": 1e3}
_MAX_CHANNELS: Final = 256
_MAX_PLANES: Final = 256
_MAX_XML: Final = 16 << 20
_NAMES: Final[dict[str, PictureKind]] = {
    "label": "label", "macro": "overview", "overview": "overview", "thumbnail": "thumbnail",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class OmeImage:
    """The largest image of the file: for each level its pages by (channel, focal plane)."""

    levels: list[dict[tuple[int, int], Any]]
    channels: tuple[Channel, ...]
    depths: tuple[float, ...]
    mpp: tuple[float, float] | None
    objective_power: float | None
    acquired: datetime | None
    pictures: dict[PictureKind, Any]


def ome_image(tiff: Any) -> OmeImage:
    """Read the structure. Raises BadSlide for what is no slide: time series, volumes, too many channels."""
    series = list(tiff.series)
    main = max(range(len(series)), key=lambda n: series[n].shape[-1] * _side(series[n]))
    image = series[main]
    axes = dict(zip(image.axes, image.shape, strict=True))
    extra = set(axes) - set("YXSCZ")
    if any(axes[name] != 1 for name in extra):
        raise BadSlide(f"the image has more than one of {', '.join(sorted(extra))}: only channels and focal planes")
    channels, planes = axes.get("C", 1), axes.get("Z", 1)
    if channels > _MAX_CHANNELS or planes > _MAX_PLANES:
        raise BadSlide(f"{channels} channels and {planes} focal planes: at most {_MAX_CHANNELS} and {_MAX_PLANES}")
    if axes.get("S", 1) > 1 and channels > 1:
        raise BadSlide("several channels of colour are not stored as a slide")
    xml = _Xml(tiff.ome_metadata or "", main)
    return OmeImage(
        levels=[_pages(level, channels, planes) for level in image.levels],
        channels=xml.channels(channels),
        depths=tuple(n * xml.spacing() for n in range(planes)),
        mpp=xml.mpp(),
        objective_power=xml.objective_power(),
        acquired=xml.acquired(),
        pictures=_pictures(series, main),
    )


def _side(series: Any) -> int:
    return int(dict(zip(series.axes, series.shape, strict=True)).get("Y", 0))


def _pages(level: Any, channels: int, planes: int) -> dict[tuple[int, int], Any]:
    """The pages of a level: the axes before Y and X, whatever their order, count them."""
    leading = [(name, size) for name, size in zip(level.axes, level.shape, strict=True) if name not in "YXS"]
    shape = tuple(size for _, size in leading)
    found: dict[tuple[int, int], Any] = {}
    if len(level.pages) != int(np.prod(shape, dtype=np.int64)):
        raise BadSlide("the image has fewer pages than channels and focal planes")
    for number, page in enumerate(level.pages):
        at = dict(zip((name for name, _ in leading), np.unravel_index(number, shape) if shape else (), strict=True))
        if page is not None:
            found[int(at.get("C", 0)), int(at.get("Z", 0))] = page.aspage()
    if (0, 0) not in found or len(found) > channels * planes:
        raise BadSlide("the first page of the image is missing")
    return found


def _pictures(series: list[Any], main: int) -> dict[PictureKind, Any]:
    found: dict[PictureKind, Any] = {}
    for number, each in enumerate(series):
        words = (each.name or "").lower().split()
        kind = next((_NAMES[word] for word in words if word in _NAMES), None)
        if number != main and kind is not None and each.pages and each.pages[0] is not None:
            found.setdefault(kind, each.pages[0].aspage())
    return found


class _Xml:
    """The Pixels element of one image; what is not said, or nonsense, is left out."""

    def __init__(self, text: str, number: int) -> None:
        if len(text) > _MAX_XML:
            raise BadSlide("the OME-XML is larger than 16 MiB")
        try:
            self._root = ET.fromstring(text)  # noqa: S314 - expat bounds entities; the process is confined
        except ET.ParseError as error:
            raise BadSlide("the OME-XML is damaged") from error
        images = self._root.findall("{*}Image")
        self._image = images[number] if number < len(images) else ET.Element("Image")
        pixels = self._image.find("{*}Pixels")
        self._pixels = pixels if pixels is not None else ET.Element("Pixels")

    def _length(self, name: str) -> float | None:
        value = _number(self._pixels.get(name))
        factor = _TO_MICROMETRES.get(self._pixels.get(name + "Unit", ""))
        return value * factor if value and factor else None

    def mpp(self) -> tuple[float, float] | None:
        across, down = self._length("PhysicalSizeX"), self._length("PhysicalSizeY")
        return (across, down) if across and down else None

    def spacing(self) -> float:
        return self._length("PhysicalSizeZ") or 1.0

    def channels(self, count: int) -> tuple[Channel, ...]:
        said = self._pixels.findall("{*}Channel")
        if count == 1 and len(said) != 1:
            return (Channel(),)
        made = []
        for number in range(count):
            each = said[number] if number < len(said) else ET.Element("Channel")
            wavelength = _number(each.get("ExcitationWavelength")) or 0.0
            wavelength *= _TO_NANOMETRES.get(each.get("ExcitationWavelengthUnit", ""), 0.0)
            made.append(Channel((each.get("Name") or "")[:64], wavelength))
        return tuple(made)

    def objective_power(self) -> float | None:
        settings = self._image.find("{*}ObjectiveSettings")
        wanted = settings.get("ID") if settings is not None else None
        for each in self._root.iterfind(".//{*}Objective"):
            if wanted is None or each.get("ID") == wanted:
                return _number(each.get("NominalMagnification"))
        return None

    def acquired(self) -> datetime | None:
        text = self._image.findtext("{*}AcquisitionDate") or ""
        try:
            return datetime.fromisoformat(text.strip())
        except ValueError:
            return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < 1e9 else None
