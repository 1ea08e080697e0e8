"""The Native DICOM Model in XML (PS3.19 A.1) as DICOM JSON."""

import re
from typing import Any, Final
from xml.etree import ElementTree as ET

from dicomweb.dictionary import creator_tag
from dicomweb.errors import BadRequest

# As deep as sequences may be nested in any request.
MAX_DEPTH: Final = 32
_DEEPEST: Final = 2 * MAX_DEPTH + 8  # an attribute and its item for each level, a person name at the end
_NAMESPACE: Final = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}", re.ASCII)
_NUMBER: Final = re.compile(r"[1-9]\d{0,5}", re.ASCII)
_INTEGERS: Final = frozenset(("IS", "SL", "SS", "SV", "UL", "US", "UV"))
_REALS: Final = frozenset(("FD", "FL"))
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_COMPONENTS: Final = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_LAST_BLOCK: Final = 0xFF


class _Builder(ET.TreeBuilder):
    """Refuses document types, without which there are no entities that grow, and what is nested without end."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> ET.Element:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise BadRequest(f"sequences are nested more than {MAX_DEPTH} levels deep")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ET.Element:
        self._depth -= 1
        return super().end(tag)

    def doctype(self, *_: object) -> None:
        raise BadRequest("the XML has a document type")


def read_native_xml(body: bytes) -> dict[str, Any]:
    """The data set. Raises BadRequest for what is not XML, or no Native DICOM Model."""
    parser = ET.XMLParser(target=_Builder())  # noqa: S314 - what defusedxml refuses takes a document type
    try:
        parser.feed(body)
        root = parser.close()
    except (ET.ParseError, LookupError, ValueError):
        raise BadRequest("the body is not XML") from None
    if _name(root) != "NativeDicomModel":
        raise BadRequest("the XML is no NativeDicomModel")
    return _attributes(root, 0)


def _name(element: ET.Element) -> str:
    return element.tag.removeprefix(_NAMESPACE)


def _attributes(parent: ET.Element, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise BadRequest(f"sequences are nested more than {MAX_DEPTH} levels deep")
    found: dict[str, Any] = {}
    private: list[tuple[str, str, dict[str, Any]]] = []
    for child in parent:
        tag, vr = child.get("tag", ""), child.get("vr", "")
        if _name(child) != "DicomAttribute" or not _TAG.fullmatch(tag) or not vr:
            raise BadRequest("the XML has an element that is no DicomAttribute with tag and vr")
        tag, element = tag.upper(), _element(child, tag.upper(), vr, depth)
        creator = child.get("privateCreator")
        if creator is None:
            found[tag] = element
        else:
            private.append((tag, creator, element))
    for tag, creator, element in private:
        found[_placed(tag, creator, found)] = element
    return found


def _placed(tag: str, creator: str, found: dict[str, Any]) -> str:
    """The tag of a private attribute in the block of its creator, which is added where there is none."""
    for block in range(0x10, _LAST_BLOCK + 1):
        placed = f"{tag[:4]}{block:02X}{tag[6:]}"
        holder = f"{creator_tag(int(placed, 16)):08X}"
        known = found.setdefault(holder, {"vr": "LO", "Value": [creator]})
        if known.get("Value") == [creator]:
            return placed
    raise BadRequest(f"group {tag[:4]} has no block left for a private creator", attribute=tag)


def _element(attribute: ET.Element, tag: str, vr: str, depth: int) -> dict[str, Any]:
    values: dict[int, Any] = {}
    for child in attribute:
        kind = _name(child)
        if kind == "InlineBinary":
            return {"vr": vr, "InlineBinary": "".join((child.text or "").split())}
        if kind == "BulkData":
            return {"vr": vr, "BulkDataURI": child.get("uri", "")}
        number = child.get("number", "")
        if kind not in {"Value", "Item", "PersonName"} or not _NUMBER.fullmatch(number):
            raise BadRequest(f"{tag} has a member that is no numbered value", attribute=tag)
        values[int(number)] = _value(child, kind, tag, vr, depth)
    if sorted(values) != list(range(1, len(values) + 1)):
        # Values that are empty are left out (PS3.19 A.1.5.2).
        if not values or max(values) > 4 * len(values) + 64:
            raise BadRequest(f"the values of {tag} are not numbered one after the other", attribute=tag)
        values = {number: values.get(number) for number in range(1, max(values) + 1)}
    return {"vr": vr, "Value": [values[number] for number in sorted(values)]} if values else {"vr": vr}


def _value(child: ET.Element, kind: str, tag: str, vr: str, depth: int) -> Any:
    if (kind == "Item") != (vr == "SQ") or (kind == "PersonName") != (vr == "PN"):
        raise BadRequest(f"{tag} has a value that a {vr} cannot have", attribute=tag)
    if kind == "Item":
        return _attributes(child, depth + 1)
    if kind == "PersonName":
        groups = {_name(group): group for group in child}
        return {name: _person(groups[name]) for name in _GROUPS if name in groups}
    text = child.text or ""
    try:
        return int(text) if vr in _INTEGERS else float(text) if vr in _REALS else text
    except ValueError:
        raise BadRequest(f"{tag} has a value that is no number", attribute=tag) from None


def _person(group: ET.Element) -> str:
    parts = {_name(part): part.text or "" for part in group}
    return "^".join(parts.get(name, "") for name in _COMPONENTS).rstrip("^")
