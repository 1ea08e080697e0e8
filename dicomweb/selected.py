"""A part of the attributes of an instance, as `includefield` of a metadata request names them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dicomweb import qido
from dicomweb.errors import BadQuery
from dicomweb.query import MAX_FIELDS, Path

# What tells whose attributes they are: SOP Class and Instance UID, Study and Series Instance UID; character set.
_ALWAYS: Final[tuple[Path, ...]] = (("00080005",), ("00080016",), ("00080018",), ("0020000D",), ("0020000E",))


@dataclass(frozen=True, slots=True)
class Selection:
    """The wanted attributes by their paths; an attribute of a sequence is wanted in each of its items."""

    paths: tuple[Path, ...]
    warnings: tuple[str, ...] = ()

    def of(self, elements: Mapping[str, Any]) -> dict[str, Any]:
        """What is wanted of a data set in DICOM JSON, in the order of its tags."""
        return _selected(elements, self.paths)


def parse_selection(parameters: Iterable[tuple[str, str]]) -> Selection | None:
    """What the `includefield` parameters want; None: everything, also for `all`. Raises BadQuery for too many."""
    fields: dict[Path, None] = dict.fromkeys(_ALWAYS)
    warnings, given = list[str](), False
    for name, value in parameters:
        if name.lower() == "includefield":
            if qido.include(value, fields, warnings):
                return None
            given = given or bool(value.strip(" ,"))
    if len(fields) > MAX_FIELDS:
        raise BadQuery(f"more than {MAX_FIELDS} attributes are named", attribute="includefield")
    return Selection(tuple(sorted(fields)), tuple(warnings)) if given else None


def _selected(elements: Mapping[str, Any], paths: Iterable[Path]) -> dict[str, Any]:
    below: dict[str, list[Path]] = {}
    for first, *rest in paths:
        below.setdefault(first, []).append(tuple(rest))
    found = dict[str, Any]()
    for tag, element in elements.items():
        wanted = below.get(tag)
        if wanted is None:
            continue
        if () in wanted or element["vr"] != "SQ":
            found[tag] = element
        else:
            items = [_selected(item or {}, wanted) for item in element.get("Value", ())]
            found[tag] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    return found
