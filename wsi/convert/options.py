"""What can be said of a conversion. The same value comes from the command line, a request and a job's row."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from dicomweb.errors import BadQuery
from dicomweb.media import EXPLICIT_LE
from dicomweb.pixels.encode import Subsampling
from dicomweb.pixels.syntaxes import JPEG_BASELINE
from dicomweb.uids import is_uid

Format = Literal[
    "keep", "jpeg", "jpeg2000", "jpeg2000-lossless", "htj2k", "htj2k-lossless", "jpegxl", "jpegxl-lossless",
    "jpegls", "jpegls-lossless", "none",
]  # fmt: skip
Pyramid = Literal["source", "apex", "full", "rebuilt"]
OffsetTable = Literal["basic", "extended", "empty"]
Split = Literal["none", "paths", "planes", "both"]
Profile = Literal["source", "srgb", "adobergb", "rommrgb"]

JPEG_2000_LOSSLESS: Final = "1.2.840.10008.1.2.4.90"
SYNTAX_OF: Final[dict[Format, str]] = {
    "jpeg": JPEG_BASELINE,
    "jpeg2000": "1.2.840.10008.1.2.4.91",
    "jpeg2000-lossless": JPEG_2000_LOSSLESS,
    "htj2k": "1.2.840.10008.1.2.4.203",
    "htj2k-lossless": "1.2.840.10008.1.2.4.201",
    "jpegxl": "1.2.840.10008.1.2.4.112",
    "jpegxl-lossless": "1.2.840.10008.1.2.4.110",
    "jpegls": "1.2.840.10008.1.2.4.81",
    "jpegls-lossless": "1.2.840.10008.1.2.4.80",
    "none": EXPLICIT_LE,
}
_SIDES: Final = (64, 4096)
_MAX_TEXT: Final = 1024
# On the glass, in mm: a slide has 25 x 75, a whole mount 75 x 100.
_MAX_ORIGIN: Final = 200.0
# Paths of files: for the command line to say, never for a request.
LOCAL_FILES: Final = frozenset(("icc_file", "label_file"))
_LEAST: Final = 1 << 17  # bytes of an instance: the attributes with an ICC profile, and a tile


@dataclass(frozen=True, slots=True)
class Options:
    """How a slide becomes DICOM.

    `format`: of frames; `keep` copies tiles where they can be frames, and encodes the others (JPEG; shades of more than
    8 bits as JPEG 2000 without loss); without `copy` no tile is copied. `tile`: side of tiles that are encoded, 0: as
    in the source; with it nothing is copied. `subsampling`: of chroma in JPEG that is encoded here. `pyramid`: the
    source's levels; those and smaller ones up to a picture of at most 1024 pixels (`apex`); also every power of two
    between (`full`); or all but the finest made anew (`rebuilt`). `levels`: numbers of that list, empty for all.

    `instance_bytes`, `instance_frames`: a level that takes more becomes a concatenation, 0: never. `split`: an instance
    for each optical path, focal plane, or both. `icc`: the profile that the pixels get, the source's or a standard one;
    `icc_file`: one from a file. `label_file`: a picture in place of the source's label. `overview_part`: left, top,
    width and height of what is kept of the overview, in percent; only so is there one with `deidentify`. `origin`:
    where on the glass the matrix begins, X and Y in mm. `metadata`: attributes by keyword, for all instances. `seed`:
    equal ones give equal identifiers.
    """

    format: Format = "keep"
    copy: bool = True
    quality: int = 90
    subsampling: Subsampling = "422"
    tile: int = 0
    pyramid: Pyramid = "apex"
    levels: tuple[int, ...] = ()
    offsets: OffsetTable = "basic"
    instance_bytes: int = 0
    instance_frames: int = 0
    split: Split = "none"
    icc: Profile = "source"
    icc_file: str = ""
    label: bool = True
    label_file: str = ""
    overview: bool = True
    overview_part: tuple[float, ...] = ()
    thumbnail: bool = True
    deidentify: bool = False
    mpp: float = 0.0
    origin: tuple[float, ...] = ()
    study: str = ""
    series: str = ""
    name: str = ""
    metadata: Mapping[str, Any] | None = None
    seed: str = ""
    created: str = ""

    def check(self) -> None:
        """Raise BadQuery that names the option."""
        if not 1 <= self.quality <= 100:
            raise BadQuery("quality is 1 to 100", attribute="quality")
        if self.tile and not (_SIDES[0] <= self.tile <= _SIDES[1] and self.tile % 16 == 0):
            raise BadQuery(f"tile is {_SIDES[0]} to {_SIDES[1]}, a multiple of 16", attribute="tile")
        if self.instance_bytes and not _LEAST <= self.instance_bytes < 1 << 63:
            raise BadQuery(f"instance_bytes is at least {_LEAST}", attribute="instance_bytes")
        if self.instance_frames < 0:
            raise BadQuery("instance_frames is a number of frames", attribute="instance_frames")
        if self.overview_part and not _is_part(self.overview_part):
            raise BadQuery("overview_part is left,top,width,height in percent", attribute="overview_part")
        if self.origin and (len(self.origin) != 2 or not all(abs(each) <= _MAX_ORIGIN for each in self.origin)):
            raise BadQuery("origin is X,Y on the glass in mm", attribute="origin")
        if self.icc_file and self.icc != "source":
            raise BadQuery("icc and icc_file exclude each other", attribute="icc")
        if any(level < 0 for level in self.levels):
            raise BadQuery("levels are numbers from 0, the finest one", attribute="levels")
        if self.mpp and not 0.001 <= self.mpp <= 1000:
            raise BadQuery("mpp is micrometres a pixel", attribute="mpp")
        for name in ("study", "series"):
            if getattr(self, name) and not is_uid(getattr(self, name)):
                raise BadQuery(f"{name} is a UID", attribute=name)

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> "Options":
        """From values of JSON or texts of a query. Raises BadQuery for what is no option, or no value of it."""
        hints = get_type_hints(cls)
        known = {each.name: hints[each.name] for each in fields(cls)}
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise BadQuery(f"there is no option {unknown[0][:40]}", attribute=unknown[0][:40])
        options = cls(**{name: _value(name, known[name], value) for name, value in given.items()})
        options.check()
        return options

    def prepared(self) -> "Options":
        """With what makes a conversion repeatable: a seed and a time, unless they are given."""
        said = asdict(self)
        said["seed"] = self.seed or uuid.uuid4().hex
        said["created"] = self.created or datetime.now(UTC).isoformat(timespec="seconds")
        return Options(**said)

    def as_json(self) -> dict[str, Any]:
        """What `parse` takes; without what has its default."""
        default = Options()
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if getattr(self, each.name) != getattr(default, each.name)
        }

    def uid(self, what: str) -> str:
        """A UID (PS3.5 B.2) that the seed and a name decide."""
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{self.seed} {what}').int}"

    @property
    def time(self) -> datetime:
        """When the conversion was asked for."""
        return datetime.fromisoformat(self.created)


def _is_part(percent: tuple[float, ...]) -> bool:
    """Whether it is a rectangle within a picture."""
    if len(percent) != 4 or not all(0 <= each <= 100 for each in percent):
        return False
    left, top, width, height = percent
    return width > 0 and height > 0 and left + width <= 100 and top + height <= 100


def _value(name: str, kind: Any, value: object) -> Any:
    """The value of one option, of the type that it has."""
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    if choices:
        found = value if value in choices else None
    else:
        try:
            found = _PARSERS.get(kind, _mapping)(value)
        except (ValueError, OverflowError):
            found = None
    if found is None:
        hint = f"one of {', '.join(choices)}" if choices else _FORMS.get(kind, "an object of attributes by keyword")
        raise BadQuery(f"{name} is {hint}", attribute=name)
    return found


def _boolean(value: object) -> bool | None:
    return _WORDS.get(value.lower()) if isinstance(value, str) else value if isinstance(value, bool) else None


def _number(kind: type[int] | type[float]) -> Callable[[object], object]:
    def parse(value: object) -> object:
        return None if isinstance(value, bool) or not isinstance(value, str | int | float) else kind(value)

    return parse


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= _MAX_TEXT else None


def _numbers(kind: type[int] | type[float]) -> Callable[[object], object]:
    one = _number(kind)

    def parse(value: object) -> object:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            return None
        found = tuple(one(part) for part in parts)
        return None if None in found else found

    return parse


def _mapping(value: object) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


_WORDS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_PARSERS: Final[dict[Any, Callable[[object], object]]] = {
    bool: _boolean,
    int: _number(int),
    float: _number(float),
    str: _text,
    tuple[int, ...]: _numbers(int),
    tuple[float, ...]: _numbers(float),
}
_FORMS: Final[dict[Any, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: f"a text of at most {_MAX_TEXT} characters",
    tuple[int, ...]: "whole numbers with commas between them",
    tuple[float, ...]: "numbers with commas between them",
}
