"""A request for new instances: what was asked for, checked."""

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dicomweb.creation.content import Content
from dicomweb.dictionary import creator_tag
from dicomweb.edit.encoding import Value
from dicomweb.edit.parsing import parse_value, vr_for
from dicomweb.edit.paths import parse_tag
from dicomweb.edit.subject import PATIENT_ID, SERIES, SOP_INSTANCE, STUDY
from dicomweb.errors import BadRequest, NoContent, NotContent, OverridesParent, TooLarge
from dicomweb.structure import name_of
from dicomweb.values import BINARY_VRS

MAX_INSTANCES: Final = 10_000
# Of all pictures of one request, decoded.
MAX_DECODED: Final = 1 << 30
_MAX_DEPTH: Final = 32
_IDENTIFIERS: Final = (STUDY, SERIES, SOP_INSTANCE)
_OF_SERIES: Final = frozenset((PATIENT_ID, STUDY, SERIES))
_FLAT: Final = "PixelData"
_PIXELS: Final = 0x7FE0

Attributes = dict[int, Value]


@dataclass(frozen=True, slots=True)
class New:
    """One instance: its content, if it has any, and attributes of its own."""

    content: Content | None
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Creation:
    """`attributes` are those of every instance; `several`: the answer is the series. `parent`: an identifier, or ""."""

    attributes: Attributes
    instances: tuple[New, ...]
    several: bool
    parent: str
    force: bool
    encapsulate: bool

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> "Creation":
        """From the request; without `Tags` its members are the tags, as early versions of Orthanc had it.

        Raises BadRequest and BadDicom, which name what is wrong, and TooLarge.
        """
        flat = "Tags" not in body and "Content" not in body and "Parent" not in body
        given = {name: value for name, value in body.items() if name != _FLAT} if flat else body.get("Tags", {})
        options = {} if flat else body
        force = _flag(options, "Force", default=False)
        reader = _Reader(_text(options, "PrivateCreator"), _flag(options, "InterpretBinaryTags", default=True))
        attributes = reader.read(given)
        if not force:
            _refuse(attributes, _IDENTIFIERS)
        content = body.get(_FLAT if flat else "Content")
        several = isinstance(content, list) and bool(content)
        instances = tuple(_instances(content or None, reader))
        if sum(each.content.decoded_bytes for each in instances if each.content) > MAX_DECODED:
            raise TooLarge(f"the pictures take more than {MAX_DECODED} bytes", attribute="Content")
        if len(instances) > 1 and SOP_INSTANCE in attributes:
            raise BadRequest("several instances cannot have one SOPInstanceUID", attribute="SOPInstanceUID")
        for each in instances:
            _refuse(each.attributes, _IDENTIFIERS if not force else _OF_SERIES)
        return cls(
            attributes,
            instances,
            several,
            _text(options, "Parent"),
            force,
            _flag(options, "Encapsulate", default=False),
        )


def _instances(content: Any, reader: "_Reader") -> Iterator[New]:
    if not isinstance(content, list):
        yield New(None if content is None else Content.of(content), {})
        return
    if len(content) > MAX_INSTANCES:
        raise TooLarge(f"at most {MAX_INSTANCES} instances", attribute="Content")
    for each in content:
        if not isinstance(each, dict):
            yield New(Content.of(each), {})
        elif "Content" not in each:
            raise NoContent("an item of Content has no Content of its own", attribute="Content")
        else:
            yield New(Content.of(each["Content"]), reader.read(each.get("Tags", {})))


def _refuse(attributes: Attributes, tags: "tuple[int, ...] | frozenset[int]") -> None:
    for tag in tags:
        if tag in attributes:
            raise OverridesParent(
                f"{name_of(tag)} is made anew, or that of the parent; it can be given with Force",
                attribute=name_of(tag),
            )


def _flag(given: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise BadRequest(f"{name} is true or false", attribute=name)
    return value


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name) or ""
    if not isinstance(value, str):
        raise BadRequest(f"{name} is text", attribute=name)
    return value


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads `Tags`. `creator`: of private attributes; `interpret`: data URIs mean the bytes that they hold."""

    creator: str
    interpret: bool

    def read(self, given: Any) -> Attributes:
        if not isinstance(given, dict):
            raise BadRequest("Tags is a JSON object", attribute="Tags")
        found: Attributes = {}
        for name, each in self._plain(given, 0).items():
            tag = parse_tag(name)
            if tag >> 16 == _PIXELS:
                raise NotContent("pixels are given as Content", attribute=name_of(tag))
            if tag in found:
                raise BadRequest(f"{name_of(tag)} is given twice", attribute=name_of(tag))
            found[tag] = parse_value(tag, each, self.creator)
        return found

    def _plain(self, given: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """The members of a data set as `parse_value` takes them, with the creators of private ones."""
        if depth >= _MAX_DEPTH:
            raise BadRequest(f"sequences are nested more than {_MAX_DEPTH} deep", attribute="Tags")
        found: dict[str, Any] = {}
        creators: dict[int, str] = {}
        for name, each in given.items():
            tag = parse_tag(name)
            found[name] = self._value(tag, each, depth)
            if tag & 0x10000 and tag & 0xFF00:
                creators[creator_tag(tag)] = name
        have = {parse_tag(name) for name in found}
        for block, name in creators.items():
            if block not in have and not self.creator:
                raise BadRequest("a private attribute needs PrivateCreator", attribute=name[:64])
            if block not in have:
                found[f"{block:08X}"] = self.creator
        return found

    def _value(self, tag: int, given: Any, depth: int) -> Any:
        if isinstance(given, dict) and given.keys() >= {"Type", "Value"}:  # as Orthanc shows tags in full
            given = given["Value"]
        if isinstance(given, dict) and "vr" not in given:
            given = [given]
        if isinstance(given, list):
            return [self._plain(each, depth + 1) if isinstance(each, dict) else each for each in given]
        if not isinstance(given, str):
            return given
        vr = vr_for(tag, self.creator)
        binary = vr in BINARY_VRS and vr != "UN"
        if binary and not self.interpret:
            return {"vr": vr, "InlineBinary": b64encode(given.encode("utf-8", "replace")).decode()}
        if self.interpret and not binary and " or " not in vr and _is_data_uri(given):
            return _decoded(tag, given)
        return given


def _is_data_uri(text: str) -> bool:
    return text.startswith("data:") and text.partition(",")[0].endswith(";base64")


def _decoded(tag: int, uri: str) -> str:
    """The text that a data URI holds."""
    try:
        return b64decode(uri.partition(",")[2], validate=True).decode()
    except ValueError as wrong:
        raise BadRequest(f"{name_of(tag)}: a data URI that holds no text", attribute=name_of(tag)) from wrong
