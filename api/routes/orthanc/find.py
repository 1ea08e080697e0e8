"""POST /tools/find, count-resources, lookup, bulk-content and bulk-delete."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from api.exchange import Exchange
from api.routes.orthanc.addressing import tag_of
from api.routes.orthanc.dialect import EMPTY, field, format_in, object_of, route, send_json, send_text
from api.routes.orthanc.resources import parts_of, send_array
from api.routing import Content
from api.uploads import whole_body
from dicomweb.errors import BadQuery, BadRequest, NotFound
from dicomweb.tags import Level
from dicomweb.uids import parse_orthanc_id
from storage.find import LabelRule, OrderBy, OrderKind, Wanted, checked_parent
from storage.resources import PLAIN, View, reference

_MAX_RESOURCES: Final = 100_000
_MAX_TEXT: Final = 1024
_LEVELS: Final = {
    "patient": Level.PATIENT,
    "patients": Level.PATIENT,
    "study": Level.STUDY,
    "studies": Level.STUDY,
    "series": Level.SERIES,
    "instance": Level.INSTANCE,
    "instances": Level.INSTANCE,
    "image": Level.INSTANCE,
    "images": Level.INSTANCE,
}
_ORDERS: Final[Mapping[str, tuple[bool, OrderKind]]] = {
    "DicomTag": (False, "text"),
    "DicomTagAsInt": (False, "integer"),
    "DicomTagAsFloat": (False, "number"),
    "Metadata": (True, "text"),
    "MetadataAsInt": (True, "integer"),
    "MetadataAsFloat": (True, "number"),
}
_RULES: Final[Mapping[str, LabelRule]] = {"All": "All", "Any": "Any", "None": "None"}
_PARENTS: Final = {"ParentPatient": Level.PATIENT, "ParentStudy": Level.STUDY, "ParentSeries": Level.SERIES}


async def find(http: Exchange) -> None:
    """Search; sent while it is read."""
    given = await object_of(http)
    await send_array(http, http.archive.find.run(http.access, _wanted(http, given), _view(given)))


async def count(http: Exchange) -> None:
    """How many a search would find."""
    given = await object_of(http)
    if field(given, "CaseSensitive", bool, False):
        raise BadRequest("counting does not tell cases apart", attribute="CaseSensitive")
    await send_json(http, {"Count": await http.archive.find.count(http.access, _wanted(http, given))})


async def lookup(http: Exchange) -> None:
    """The resources with a PatientID or UID."""
    try:
        text = (await whole_body(http, _MAX_TEXT)).decode().strip()
    except UnicodeDecodeError:
        raise BadRequest("the body is text in UTF-8") from None
    if "\0" in text:
        raise BadRequest("the body is text without NUL")
    found = await http.archive.resources.lookup(http.access, text)
    await send_json(http, [reference(resource) for resource in found])


async def bulk_content(http: Exchange) -> None:
    """Describe resources."""
    given = await object_of(http)
    if "Resources" not in given:
        raise BadRequest("Resources is missing", attribute="Resources")
    level = _level(given["Level"]) if given.get("Level") else None
    found = [digest for _, digest in _identifiers(field(given, "Resources", list, []))]
    parts = replace(PLAIN, metadata=field(given, "Metadata", bool, True))
    view = View(parts, format_in(given, "Human"))
    await send_json(http, await http.archive.find.content(http.access, found, level, view))


async def bulk_delete(http: Exchange) -> None:
    """Delete resources."""
    given = await object_of(http)
    if "Resources" not in given:
        raise BadRequest("Resources is missing", attribute="Resources")
    await http.archive.lifecycle.remove_all(http.access, _identifiers(field(given, "Resources", list, [])))
    await send_text(http, "")


def _identifiers(given: list[Any]) -> list[tuple[Level | None, bytes]]:
    """Identifiers as text, or as objects with Level and ID; what is no identifier belongs to nobody."""
    if len(given) > _MAX_RESOURCES:
        raise BadRequest(f"at most {_MAX_RESOURCES} resources", attribute="Resources")
    found: list[tuple[Level | None, bytes]] = []
    for each in given:
        level = _level(each.get("Level")) if isinstance(each, dict) else None
        text = each.get("ID") if isinstance(each, dict) else each
        if not isinstance(text, str):
            raise BadRequest("Resources is a list of identifiers", attribute="Resources")
        try:
            found.append((level, parse_orthanc_id(text)))
        except NotFound:
            continue
    return found


def _wanted(http: Exchange, given: Mapping[str, Any]) -> Wanted:
    """The search that a body asks for. Raises BadRequest, BadQuery."""
    if "Level" not in given or "Query" not in given:
        raise BadRequest("Level and Query are needed", attribute="Level")
    query, metadata = field(given, "Query", dict, {}), field(given, "MetadataQuery", dict, {})
    rule = field(given, "LabelsConstraint", str, "All")
    if rule not in _RULES:
        raise BadQuery("LabelsConstraint is All, Any or None", attribute="LabelsConstraint")
    return Wanted(
        level=_level(given["Level"]),
        tags={tag_of(name, "Query"): _text(value, "Query") for name, value in query.items()},
        metadata={_metadata(http, name, "MetadataQuery"): _text(v, "MetadataQuery") for name, v in metadata.items()},
        labels=[_text(label, "Labels") for label in field(given, "Labels", list, [])],
        label_rule=_RULES[rule],
        parents=[checked_parent(_PARENTS[name], _text(given[name], name)) for name in _PARENTS if given.get(name)],
        order=[_order(http, each) for each in field(given, "OrderBy", list, [])],
        case="exact" if field(given, "CaseSensitive", bool, False) else "ignored",
        since=_natural(given, "Since"),
        limit=_natural(given, "Limit"),
    )


def _view(given: Mapping[str, Any]) -> View | None:
    """How a search shows what it found; None: by identifier."""
    content = given.get("ResponseContent")
    if content is None and not field(given, "Expand", bool, False) and not given.get("RequestedTags"):
        return None
    if content is not None:
        parts = parts_of([_text(name, "ResponseContent") for name in field(given, "ResponseContent", list, [])])
    else:
        parts = PLAIN
    asked = [tag_of(_text(n, "RequestedTags"), "RequestedTags") for n in field(given, "RequestedTags", list, [])]
    return View(replace(parts, requested=tuple(dict.fromkeys(asked))), format_in(given, "Human"))


def _level(given: Any) -> Level:
    level = _LEVELS.get(given.lower()) if isinstance(given, str) else None
    if level is None:
        raise BadQuery("Level is Patient, Study, Series or Instance", attribute="Level")
    return level


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{name} holds texts", attribute=name)
    return value


def _natural(given: Mapping[str, Any], name: str) -> int:
    value = field(given, name, int, 0)
    if value < 0:
        raise BadQuery(f"{name} is not negative", attribute=name)
    return value


def _metadata(http: Exchange, name: str, attribute: str) -> int:
    kind = http.archive.metadata.kinds.number(name)
    if kind is None:
        raise BadQuery("there is no such metadata", attribute=attribute)
    return kind


def _order(http: Exchange, given: Any) -> OrderBy:
    if not isinstance(given, dict) or given.get("Type") not in _ORDERS or not isinstance(given.get("Key"), str):
        raise BadQuery("OrderBy holds objects with Type, Key and Direction", attribute="OrderBy")
    direction = given.get("Direction", "ASC")
    if direction not in ("ASC", "DESC"):
        raise BadQuery("Direction is ASC or DESC", attribute="OrderBy")
    is_metadata, kind = _ORDERS[given["Type"]]
    if is_metadata:
        number = _metadata(http, given["Key"], "OrderBy")
        return OrderBy(kind, metadata=number, descending=direction == "DESC")
    return OrderBy(kind, tag=tag_of(given["Key"], "OrderBy"), descending=direction == "DESC")


# -- the table

_ID: Final = "9ad2b0da-a406c43c-6e0df76d-1204b86f-78d12c15"
_QUERY: Final = {
    "Level": "Study", "Query": {"PatientName": "doe*", "StudyDate": "20240101-"}, "Expand": True, "Limit": 100,
    "Since": 0, "OrderBy": [{"Type": "DicomTag", "Key": "StudyDate", "Direction": "DESC"}], "Labels": ["urgent"],
    "LabelsConstraint": "Any", "RequestedTags": ["ModalitiesInStudy"],
}  # fmt: skip
_FOUND: Final = [{"ID": _ID, "Type": "Study", "MainDicomTags": {"StudyDate": "20240131"}}]
_REFERENCE: Final = [{"ID": _ID, "Path": f"/studies/{_ID}", "Type": "Study"}]
_SEARCH: Final = (
    "By any tag of any level, labels, metadata and parents, in any order, page by page. Texts hold `*` and `?`, ranges "
    "of dates (`20240101-`) and lists (`A\\\\B`); the case of letters counts only with `CaseSensitive`."
)
_DELETE: Final = "In one transaction; identifiers that nobody has are passed over."
_CONTENT: Final = "As they are, or what of `Level` they are, are in, or hold."
_BULK: Final = {"Resources": [_ID], "Level": "Study", "Metadata": True}

OPERATIONS = (
    route("POST", "/tools/find", "dicom.search", ("Find resources", _SEARCH), find, _FOUND, _QUERY),
    route("POST", "/tools/count-resources", "dicom.search", ("Count resources", _SEARCH), count, {"Count": 12},
          {"Level": "Study", "Query": {"PatientName": "doe*"}}),
    route("POST", "/tools/lookup", "dicom.search", ("Look an identifier up", "A PatientID, in any case, or a UID."),
          lookup, _REFERENCE, Content("text/plain", "P-1")),
    route("POST", "/tools/bulk-content", "dicom.search", ("Describe resources", _CONTENT),
          bulk_content, _FOUND, _BULK),
    route("POST", "/tools/bulk-delete", "dicom.delete", ("Delete resources", _DELETE), bulk_delete, EMPTY,
          {"Resources": [_ID]}),
)  # fmt: skip
