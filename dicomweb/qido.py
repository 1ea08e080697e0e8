"""QIDO-RS parameters (PS3.18 8.3.4, 10.6.1) -> Query.

PS3.18 8.3.2 would have unknown parameters ignored, and 10.6.1.2 allows attributes of the searched level and above only.
Here a name that is neither a parameter nor an attribute, and an attribute that the level cannot be matched by, is
BadQuery: a misspelt `PatientID` that is ignored answers with everybody's studies.
"""

import re
from collections.abc import Iterable

from dicomweb.errors import BadQuery
from dicomweb.query import EMPTY_VALUE_UNSUPPORTED, MAX_OFFSET, Key, Options, Path, Query, parse_path
from dicomweb.query_levels import assemble
from dicomweb.tags import Level

MORE_RESULTS = "There are additional results that can be requested."

_FLAGS = frozenset(("fuzzymatching", "emptyvaluematching", "multiplevaluematching"))
_COUNTS = frozenset(("limit", "offset"))
# Negotiation (PS3.18 8.3.3) and cache busters are not the search's business.
_IGNORED = frozenset(("accept", "charset", "_"))
_COUNT = re.compile(r"\d{1,18}", re.ASCII)
_NAME = re.compile(r"[0-9A-Za-z.]{1,256}", re.ASCII)


def parse(
    level: Level,
    study: str | None,
    series: str | None,
    params: Iterable[tuple[str, str]],
    max_limit: int,
    default_limit: int,
    *,
    date_time: bool = False,
) -> Query:
    """The query of a search resource; `params` are decoded, in order, repeats kept.

    `limit` is clipped to `max_limit`. `date_time`: see `Options`. Raises BadQuery that names the parameter.
    """
    settings: dict[str, str] = {}
    fields: dict[Path, None] = {}
    warnings: list[str] = []
    every_field = False
    keys: dict[Path, Key] = {}
    for given, value in params:
        name = given.strip()
        lower = name.lower()
        if not name or lower in _IGNORED:  # Weasis sends "?&includefield=..."
            continue
        if lower == "includefield":
            every_field |= include(value, fields, warnings)
        elif lower in _FLAGS or lower in _COUNTS:
            if settings.setdefault(lower, value) != value:
                raise BadQuery(f"query parameter {lower} is given more than once", attribute=lower)
        else:
            _collect(keys, name, value)
    if _flag(settings, "emptyvaluematching"):
        warnings.append(EMPTY_VALUE_UNSUPPORTED)
    base = Query(
        level=level,
        study=study,
        series=series,
        all_fields=every_field,
        fuzzy=_flag(settings, "fuzzymatching"),
        limit=min(_count(settings, "limit", default_limit), max_limit),
        offset=_count(settings, "offset", 0, MAX_OFFSET),
        warnings=tuple(warnings),
    )
    options = Options(
        commas=True, every_value=_flag(settings, "multiplevaluematching"), date_time=date_time, strict=True
    )
    return assemble(base, keys.values(), fields=fields, options=options)


def warning_header(service: str, text: str) -> str:
    """The value of a Warning header as PS3.18 8.3.4 words it; `service` is the base URI of the origin server."""
    return f"299 {service}: {text}"


def include(value: str, fields: dict[Path, None], warnings: list[str]) -> bool:
    """Add the comma list of an includefield to `fields`; whether it said `all`.

    An unknown name has nothing to return, and gets a warning.
    """
    every_field = False
    for raw in value.split(","):
        name = raw.strip()
        if not name:
            continue
        if name.lower() == "all":
            every_field = True
            continue
        path = parse_path(name)
        if path is not None:
            fields[path] = None
        elif len(warnings) < 10:
            warnings.append(f"The includefield value {_printable(name)} is not a known attribute. It has been ignored.")
    return every_field


def _collect(keys: dict[Path, Key], name: str, value: str) -> None:
    path = parse_path(name)
    if path is None:
        shown = _printable(name)
        raise BadQuery(f"query parameter {shown} is neither a search parameter nor an attribute", attribute=shown)
    known = keys.get(path)
    keys[path] = Key(path, name, (value,)) if known is None else Key(path, known.name, (*known.texts, value))


def _printable(name: str) -> str:
    """A client's name for use in messages and headers: what does not look like an attribute's name is not repeated."""
    return name if _NAME.fullmatch(name) else "(not shown)"


def _flag(settings: dict[str, str], name: str) -> bool:
    text = settings.get(name, "").strip().lower()
    if text not in ("", "true", "false"):
        raise BadQuery(f"query parameter {name} is neither true nor false", attribute=name)
    return text == "true"


def _count(settings: dict[str, str], name: str, default: int, maximum: int | None = None) -> int:
    text = settings.get(name, "").strip()
    if not text:
        return default
    if not _COUNT.fullmatch(text):
        raise BadQuery(f"query parameter {name} is not a whole number from 0", attribute=name)
    count = int(text)
    if maximum is not None and count > maximum:
        raise BadQuery(f"query parameter {name} is more than {maximum}", attribute=name)
    return count
