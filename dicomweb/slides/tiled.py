"""One tiled instance: its total pixel matrix, tiles, optical paths and focal planes (PS3.3 C.8.12.4 to C.8.12.9)."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from dicomweb.errors import BadPixels
from dicomweb.pixels.image import ImagePixel
from dicomweb.rendered.attributes import Item, items, keyword, number, numbers
from dicomweb.slides.places import Places
from dicomweb.slides.tilemap import Grid

Flavor = Literal["VOLUME", "LABEL", "OVERVIEW", "THUMBNAIL"]

WHOLE_SLIDE: Final = "1.2.840.10008.5.1.4.1.1.77.1.6"
# Classes whose instances are levels of one picture: VL Whole Slide Microscopy, Confocal Microscopy Tiled Pyramidal.
PYRAMIDAL: Final = frozenset((WHOLE_SLIDE, "1.2.840.10008.5.1.4.1.1.77.1.9"))
MATRIX_COLUMNS: Final = "00480006"
MATRIX_ROWS: Final = "00480007"
# A matrix may have this many pixels to a side; what is larger is no slide but a mistake or an attack.
MAX_SIDE: Final = (1 << 31) - 1
# More focal planes than this are a mistake: each is a full scan of the glass.
_MAX_PLANES: Final = 4096
_FLAVORS: Final[dict[str, Flavor]] = {
    "LABEL": "LABEL",
    "OVERVIEW": "OVERVIEW",
    "LOCALIZER": "OVERVIEW",
    "THUMBNAIL": "THUMBNAIL",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an instance or with the slide as a whole (`sop` is "" then); `name` is fixed, for programs."""

    name: str
    detail: str
    sop: str = ""


class NotTiled(Exception):
    """The instance is no part of a slide; `problem` says why."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name
        self.detail = detail


@dataclass(frozen=True, slots=True)
class OpticalPath:
    """An item of the Optical Path Sequence. `wavelength`: of the illumination, in nm. `icc`: it has a profile."""

    identifier: str
    description: str = ""
    wavelength: float | None = None
    icc: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Tiled(Grid):
    """A tiled instance as its attributes describe it.

    `width`, `height`: total pixel matrix; `columns`, `rows`: one frame. `spacing`: between rows and between columns, in
    mm. `planes`: Z offsets in µm, in the order of a TILED_FULL instance. `concatenation`: its UID or "", with the place
    of this part and of its first frame. `places` is None for TILED_FULL. `dataset`: the attributes without per-frame
    groups.
    """

    sop: str
    flavor: Flavor
    resampled: bool
    frames: int
    paths: tuple[OpticalPath, ...]
    planes: tuple[float, ...]
    concatenation: str
    part: int
    first: int | None
    spacing: tuple[float, float] | None
    frame_of_reference: str
    container: str
    places: Places | None
    image: ImagePixel
    dataset: dict[str, Any]

    @classmethod
    def of(cls, dataset: dict[str, Any], places: Places | None, *, per_frame: bool, frames: int) -> "Tiled":
        """From the attributes, the places of its frames, and how many frames can be served.

        `per_frame`: the instance has per-frame functional groups. Raises NotTiled.
        """
        image = _image(dataset)
        width, height = (_side(dataset, tag) for tag in (MATRIX_COLUMNS, MATRIX_ROWS))
        if not frames:
            raise NotTiled("no-frames", "no frame of the instance can be read")
        full = _is_full(dataset, per_frame=per_frame)
        if not full and places is None:
            raise NotTiled("no-positions", "the frames of the instance have no positions in the total pixel matrix")
        types = [str(value or "").strip().upper() for value in dataset.get("00080008", {}).get("Value") or ()]
        shared = next(iter(items(dataset, "52009229")), {})
        measures = next(iter(items(shared, "00289110")), {})
        paths = _paths(dataset, shared)
        apart = numbers(measures, "00280030")
        return cls(
            sop=_text(dataset, "00080018"),
            flavor=_FLAVORS.get(types[2], "VOLUME") if len(types) > 2 else "VOLUME",
            resampled="RESAMPLED" in types[3:],
            width=width,
            height=height,
            columns=image.columns,
            rows=image.rows,
            frames=frames,
            paths=paths,
            planes=_planes(dataset, shared, measures, frames),
            concatenation=_text(dataset, "00209161"),
            part=_integer(dataset, "00209162") or 0,
            first=_integer(dataset, "00209228"),
            spacing=(apart[0], apart[1]) if len(apart) > 1 and min(apart[:2]) > 0 else None,
            frame_of_reference=_text(dataset, "00200052"),
            container=_text(dataset, "00400512"),
            places=None if full else places,
            image=image,
            dataset=dataset,
        )


def is_tiled(dataset: Item) -> bool:
    """Whether the attributes are those of a tiled image of a slide: a segmentation of one is no such image."""
    return MATRIX_COLUMNS in dataset and "00620002" not in dataset


def _image(dataset: Item) -> ImagePixel:
    try:
        return ImagePixel.of(dataset)
    except BadPixels as error:
        raise NotTiled("bad-image", error.message) from None


def _side(dataset: Item, tag: str) -> int:
    side = _integer(dataset, tag)
    if side is None or side < 1:
        raise NotTiled("bad-matrix", "the total pixel matrix has no size")
    if side > MAX_SIDE:
        raise NotTiled("bad-matrix", f"a side of the total pixel matrix is above {MAX_SIDE}")
    return side


def _is_full(dataset: Item, *, per_frame: bool) -> bool:
    """TILED_FULL, or no word about it: then per-frame groups decide (PS3.3 C.7.6.17.3)."""
    said = keyword(dataset, "00209311")
    return said == "TILED_FULL" or (said != "TILED_SPARSE" and not per_frame)


def _paths(dataset: Item, shared: Item) -> tuple[OpticalPath, ...]:
    """In the order of the sequence, which is that of the frames (PS3.3 C.8.12.4.1.1); "" where there is none.

    An instance whose shared groups name its path is of that one, whatever others are described.
    """
    found = tuple(
        OpticalPath(_text(item, "00480106"), _text(item, "00480107"), number(item, "00220055"), icc="00282000" in item)
        for item in items(dataset, "00480105")
    )
    named = [_text(item, "00480106") for item in items(shared, "00480207")]
    return tuple(path for path in found if path.identifier in named) or found or (OpticalPath(""),)


def _planes(dataset: Item, shared: Item, measures: Item, frames: int) -> tuple[float, ...]:
    """Z offsets in µm of the focal planes: from the glass to the coverslip (PS3.3 C.8.12.4.1.1)."""
    count = min(max(1, _integer(dataset, "00480303") or 1), frames, _MAX_PLANES)
    place = next(iter(items(shared, "0048021A")), None) or next(iter(items(dataset, "00480008")), {})
    start = number(place, "0040074A") or 0.0
    step = (number(measures, "00180088") or 0.0) * 1000  # Spacing Between Slices is in mm
    return tuple(round(start + (step or 1.0) * index, 3) for index in range(count))


def _text(item: Item, tag: str) -> str:
    value = (item.get(tag, {}).get("Value") or ("",))[0]
    return "" if value is None or isinstance(value, dict) else str(value).strip()


def _integer(item: Item, tag: str) -> int | None:
    found = number(item, tag)
    return None if found is None else int(found)
