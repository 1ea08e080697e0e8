"""How clients of other servers ask for parts of a slide: DeepZoom and the IIIF Image API 3.0, as regions and sizes.

Pure: text in, values out. A region is in pixels of the finest level.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from dicomweb.errors import BadQuery, NotFound
from dicomweb.rendered.encode import JPEG, PNG, TIFF
from dicomweb.rendered.parameters import THUMBNAIL_SIDE, Viewport

PictureType = Literal["image/jpeg", "image/png", "image/tiff"]
Quality = Literal["color", "gray", "bitonal"]

# Pixels of one picture, and of one side of it.
MAX_PIXELS: Final = 1 << 22
MAX_SIDE: Final = 8192
DEEPZOOM_OVERLAP: Final = 0
DEEPZOOM_SUFFIX: Final = ".dzi"
FILES_SUFFIX: Final = "_files"
IIIF_FORMATS: Final = {"jpg": JPEG, "png": PNG}
_NUMBER: Final = r"\d{1,10}(?:\.\d{1,10})?"
_FOUR: Final = re.compile(rf"({_NUMBER}),({_NUMBER}),({_NUMBER}),({_NUMBER})", re.ASCII)
_SIZE: Final = re.compile(r"(\^?)(!?)(\d{0,6}),(\d{0,6})", re.ASCII)
_QUALITIES: Final[dict[str, Quality]] = {"default": "color", "color": "color", "gray": "gray", "bitonal": "bitonal"}
_TILE: Final = re.compile(r"(\d{1,10})_(\d{1,10})\.(jpe?g|png)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Asked:
    """A picture: the part of the slide, its size (`columns` x `rows`) before it is mirrored and turned clockwise."""

    left: float
    top: float
    width: float
    height: float
    columns: int
    rows: int
    media_type: PictureType = "image/jpeg"
    rotation: int = 0
    mirrored: bool = False
    quality: Quality = "color"

    @property
    def scale(self) -> float:
        """Pixels of the picture for each pixel of the finest level, along the side where there are more."""
        return max(self.columns / self.width, self.rows / self.height)

    @property
    def is_plain(self) -> bool:
        """Whether the picture is neither mirrored nor turned, and in colour where the slide is."""
        return not self.rotation and not self.mirrored and self.quality == "color"


def fitting(width: int, height: int, aspect: float, viewport: Viewport | None) -> Asked:
    """The whole of a slide, as large as a viewport allows; `aspect`: height of a pixel over its width.

    Raises BadQuery for a picture that is not small any more.
    """
    box = viewport or Viewport(THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    scale = min(
        math.inf if box.width is None else box.width / width,
        math.inf if box.height is None else box.height / (height * aspect),
        1.0 if box.width is None and box.height is None else math.inf,
    )
    size = max(1, round(width * scale)), max(1, round(height * aspect * scale))
    return Asked(0.0, 0.0, float(width), float(height), *_checked(*size, "viewport"))


# -- regions of our own


def parse_region(width: int, height: int, given: dict[str, str], mpp: Sequence[float] | None) -> Asked:
    """`region=x,y,w,h` with `unit=px|um|percent`, and the size by `width`, `height`, both, or `mpp`.

    `width`, `height`: of the finest level; `mpp`: its micrometres a pixel, None where the slide does not say.
    Raises BadQuery, which names the parameter.
    """
    left, top, across, down = 0.0, 0.0, float(width), float(height)
    if "region" in given:
        match = _FOUR.fullmatch(given["region"])
        if match is None:
            raise BadQuery("a region is x,y,width,height", attribute="region")
        left, top, across, down = (float(number) for number in match.groups())
        unit_x, unit_y = _unit(given.get("unit", "px"), width, height, mpp)
        left, across, top, down = left * unit_x, across * unit_x, top * unit_y, down * unit_y
    left, top, across, down = _clipped(left, top, across, down, width, height)
    columns, rows = (_positive(given[name], name) if name in given else None for name in ("width", "height"))
    if "mpp" in given:
        wanted = _decimal(given["mpp"], "mpp")
        if mpp is None or wanted <= 0 or columns or rows:
            raise BadQuery("mpp is above 0, for a slide with known spacing, without width and height", attribute="mpp")
        columns, rows = round(across * mpp[0] / wanted), round(down * mpp[1] / wanted)
    columns, rows = _fitted(across, down, columns, rows)
    return Asked(left, top, across, down, *_checked(columns, rows), _region_format(given.get("format", "jpeg")))


def _unit(name: str, width: int, height: int, mpp: Sequence[float] | None) -> tuple[float, float]:
    if name == "px":
        return 1.0, 1.0
    if name == "percent":
        return width / 100, height / 100
    if name == "um" and mpp is not None:
        return 1 / mpp[0], 1 / mpp[1]
    raise BadQuery("a unit is px, percent, or um where the slide says its spacing", attribute="unit")


def _region_format(name: str) -> PictureType:
    if name in {"tiff", "tif"}:
        return TIFF
    if name in {"jpeg", "jpg", "png"}:
        return _format(name)
    raise BadQuery("a format is jpeg, png or tiff", attribute="format")


def _format(name: str) -> Literal["image/jpeg", "image/png"]:
    if name in {"jpeg", "jpg"}:
        return "image/jpeg"
    if name == "png":
        return "image/png"
    raise BadQuery("a format is jpeg or png", attribute="format")


def _fitted(across: float, down: float, columns: int | None, rows: int | None) -> tuple[int, int]:
    """A missing side follows from the other; without both the picture is as large as the region."""
    if columns is None and rows is None:
        return max(1, round(across)), max(1, round(down))
    if columns is None:
        assert rows is not None
        return max(1, round(across * rows / down)), rows
    return columns, max(1, round(down * columns / across)) if rows is None else rows


def _clipped(
    left: float, top: float, across: float, down: float, width: int, height: int
) -> tuple[float, float, float, float]:
    across, down = min(left + across, width) - left, min(top + down, height) - top
    if across <= 0 or down <= 0:
        raise BadQuery("the region is empty or lies outside the slide", attribute="region")
    return left, top, across, down


def _checked(columns: int, rows: int, name: str = "size") -> tuple[int, int]:
    if columns < 1 or rows < 1:
        raise BadQuery("the picture would have no pixels", attribute=name)
    if columns > MAX_SIDE or rows > MAX_SIDE or columns * rows > MAX_PIXELS:
        raise BadQuery(f"a picture has {MAX_SIDE} pixels to a side and {MAX_PIXELS} in all at most", attribute=name)
    return columns, rows


def _positive(text: str, name: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII) or int(text) == 0:
        raise BadQuery("a side of a picture is an integer above 0", attribute=name)
    return int(text)


def _decimal(text: str, name: str) -> float:
    if not re.fullmatch(_NUMBER, text, re.ASCII):
        raise BadQuery("not a decimal number", attribute=name)
    return float(text)


# -- DeepZoom


def deepzoom_levels(width: int, height: int) -> int:
    """The number of the finest DeepZoom level: level 0 has one pixel, and each doubles the one before."""
    return (max(width, height) - 1).bit_length()


def deepzoom_document(width: int, height: int, tile: int) -> bytes:
    """The `.dzi` document of an image in square tiles of JPEG."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" '
        f'Format="jpeg" Overlap="{DEEPZOOM_OVERLAP}" TileSize="{tile}">'
        f'<Size Width="{width}" Height="{height}"/></Image>\n'
    ).encode()


def parse_deepzoom(width: int, height: int, tile: int, level: str, name: str) -> Asked:
    """The tile `x_y.jpeg` of a level, without what lies outside the image. Raises NotFound."""
    match = _TILE.fullmatch(name)
    finest = deepzoom_levels(width, height)
    if match is None or not re.fullmatch(r"\d{1,3}", level, re.ASCII) or int(level) > finest:
        raise NotFound("there is no such tile")
    factor = 1 << finest - int(level)
    across, down = -(-width // factor), -(-height // factor)
    left, top = int(match[1]) * tile, int(match[2]) * tile
    if left >= across or top >= down:
        raise NotFound("there is no such tile")
    columns, rows = min(tile, across - left), min(tile, down - top)
    x, y = left * factor, top * factor
    shown = min(columns * factor, width - x), min(rows * factor, height - y)
    return Asked(x, y, shown[0], shown[1], columns, rows, _format(match[3]))


# -- IIIF Image API 3.0


def iiif_information(
    identifier: str, width: int, height: int, tile: tuple[int, int], sizes: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """The `info.json` of an image (section 5), level 2; `sizes` of whole pictures that cost little, in any order."""
    side = max(1, max(width, height) // max(tile))
    factors = [1 << power for power in range(side.bit_length())]
    return {
        "@context": "http://iiif.io/api/image/3/context.json",
        "id": identifier,
        "type": "ImageService3",
        "protocol": "http://iiif.io/api/image",
        "profile": "level2",
        "width": width,
        "height": height,
        "maxWidth": MAX_SIDE,
        "maxHeight": MAX_SIDE,
        "maxArea": MAX_PIXELS,
        "sizes": [{"width": w, "height": h} for w, h in sorted(sizes) if max(w, h) <= MAX_SIDE and w * h <= MAX_PIXELS],
        "tiles": [{"width": tile[0], "height": tile[1], "scaleFactors": factors}],
        "extraFormats": ["jpg", "png"],
        "extraQualities": ["color", "gray", "bitonal"],
        "extraFeatures": ["mirroring", "rotationBy90s", "regionByPct", "regionSquare", "sizeUpscaling"],
    }


@dataclass(frozen=True, slots=True)
class Canvas:
    """What a picture of a manifest is on: as large as it. `image`: the absolute identifier of the picture."""

    image: str
    label: str
    width: int
    height: int

    def painted(self, identifier: str) -> dict[str, Any]:
        """The canvas with this URI, which the picture fills."""
        annotation = {
            "id": f"{identifier}/annotation", "type": "Annotation", "motivation": "painting", "target": identifier,
            "body": self.picture("max", self.width, self.height),
        }  # fmt: skip
        return {
            "id": identifier, "type": "Canvas", "label": {"none": [self.label]}, "width": self.width,
            "height": self.height,
            "items": [{"id": f"{identifier}/page", "type": "AnnotationPage", "items": [annotation]}],
        }  # fmt: skip

    def thumbnail(self) -> dict[str, Any]:
        """The picture, small."""
        scale = min(1.0, THUMBNAIL_SIDE / max(self.width, self.height))
        small = max(1, round(self.width * scale)), max(1, round(self.height * scale))
        return self.picture("{},{}".format(*small), *small)

    def picture(self, size: str, columns: int, rows: int) -> dict[str, Any]:
        """The picture at a size, as content of a canvas."""
        return {
            "id": f"{self.image}/full/{size}/0/default.jpg", "type": "Image", "format": "image/jpeg", "width": columns,
            "height": rows, "service": [{"id": self.image, "type": "ImageService3", "profile": "level2"}],
        }  # fmt: skip


def iiif_manifest(place: str, label: str, canvases: Sequence[Canvas]) -> dict[str, Any]:
    """A manifest of the IIIF Presentation API 3.0 at `place`, an absolute URI; it has one canvas at least."""
    return {
        "@context": "http://iiif.io/api/presentation/3/context.json",
        "id": place,
        "type": "Manifest",
        "label": {"none": [label]},
        "thumbnail": [canvases[0].thumbnail()],
        "items": [canvas.painted(f"{place}/canvas/{number}") for number, canvas in enumerate(canvases, 1)],
    }


def parse_iiif(width: int, height: int, region: str, size: str, rotation: str, name: str) -> Asked:
    """A request of section 4. Raises BadQuery (400), which names the parameter."""
    box = _iiif_region(width, height, region)
    columns, rows = _iiif_size(box[2], box[3], size)
    turned = re.fullmatch(r"(!?)(\d{1,3})(?:\.0+)?", rotation, re.ASCII)
    if turned is None or int(turned[2]) not in (0, 90, 180, 270, 360):
        raise BadQuery("a rotation is 0, 90, 180 or 270, with ! in front to mirror", attribute="rotation")
    quality, _, suffix = name.partition(".")
    if quality not in _QUALITIES:
        raise BadQuery("a quality is default, color, gray or bitonal", attribute="quality")
    if suffix not in IIIF_FORMATS:
        raise BadQuery("a format is jpg or png", attribute="format")
    turn, mirrored = int(turned[2]) % 360, bool(turned[1])
    return Asked(*box, columns, rows, _format(suffix), turn, mirrored, _QUALITIES[quality])


def _iiif_region(width: int, height: int, region: str) -> tuple[float, float, float, float]:
    if region == "full":
        return 0.0, 0.0, float(width), float(height)
    if region == "square":
        side = min(width, height)
        return float((width - side) // 2), float((height - side) // 2), float(side), float(side)
    percent = region.startswith("pct:")
    match = _FOUR.fullmatch(region.removeprefix("pct:"))
    if match is None or (not percent and "." in region):
        raise BadQuery("a region is full, square, x,y,w,h or pct:x,y,w,h", attribute="region")
    left, top, across, down = (float(number) for number in match.groups())
    if percent:
        left, across = (round(value * width / 100) for value in (left, across))
        top, down = (round(value * height / 100) for value in (top, down))
    return _clipped(left, top, across, down, width, height)


def _iiif_size(across: float, down: float, size: str) -> tuple[int, int]:
    """Section 4.2; without ^ nothing is made larger than the region."""
    limit = min(1.0, MAX_SIDE / max(across, down), math.sqrt(MAX_PIXELS / (across * down)))
    if size in {"max", "^max"}:
        grown = min(MAX_SIDE / max(across, down), math.sqrt(MAX_PIXELS / (across * down)))
        scale = grown if size == "^max" else limit
        return max(1, math.floor(across * scale)), max(1, math.floor(down * scale))
    upscaled = size.startswith("^")
    if size.removeprefix("^").startswith("pct:"):
        scale = _decimal(size.removeprefix("^")[4:], "size") / 100
        columns, rows = round(across * scale), round(down * scale)
    else:
        match = _SIZE.fullmatch(size)
        if match is None or not (match[3] or match[4]):
            raise BadQuery("a size is max, w, ,h pct:n w,h or !w,h, with ^ in front to enlarge", attribute="size")
        wide, high = (int(text) if text else None for text in match.groups()[2:])
        if match[2]:
            if wide is None or high is None:
                raise BadQuery("!w,h needs both", attribute="size")
            scale = min(wide / across, high / down)
            scale = scale if upscaled else min(1.0, scale)
            columns, rows = max(1, round(across * scale)), max(1, round(down * scale))
        else:
            columns, rows = _fitted(across, down, wide, high)
    if not upscaled and (columns > math.ceil(across) or rows > math.ceil(down)):
        raise BadQuery("the size is larger than the region: ^ in front of it would enlarge", attribute="size")
    return _checked(columns, rows)
