"""QIDO-RS: searches on the six resources (PS3.18 10.6)."""

from dataclasses import dataclass
from functools import lru_cache

from api.datasets import send_documents
from api.examples import DOCUMENT_ACCEPT, STUDY_ROW, XML_PARTS, json_body
from api.exchange import Exchange, parse_query
from api.responses import send_bytes, warning
from api.routing import Answer, HotHandler, Operation, Parameter
from dicomweb import qido
from dicomweb.errors import BadQuery, NotAcceptable, Unavailable
from dicomweb.negotiation import parse_accept, plan_documents
from dicomweb.query import Query
from dicomweb.tags import Level
from dicomweb.uids import checked_uid

_REMEMBERED_SIZE = 1024


@dataclass(frozen=True, slots=True)
class _Request:
    """What the URL asks: the query, whether the limit is the client's own, and the `accept` parameter."""

    query: Query
    limited: bool
    accept: str | None


def _read(http: Exchange, level: Level) -> _Request:
    path, text = http.path, http.scope["query_string"]
    settings = http.settings
    key = (level, path.get("study"), path.get("series"), text, settings.qido_max_limit, settings.qido_default_limit)
    # Viewers ask the same again and again; reading a query costs as much as all else that happens here.
    return _remembered(*key) if len(text) <= _REMEMBERED_SIZE else _parse(*key)


def _parse(
    level: Level, study: str | None, series: str | None, text: bytes, max_limit: int, default_limit: int
) -> _Request:
    if study is not None:
        checked_uid(study, "study")
    if series is not None:
        checked_uid(series, "series")
    parameters = parse_query(text)
    query = qido.parse(level, study, series, parameters, max_limit, default_limit)
    accept = next((value for name, value in parameters if name == "accept"), None)
    own = query.limit < max_limit and any(name == "limit" for name, _ in parameters)
    return _Request(query, own, accept)


_remembered = lru_cache(maxsize=512)(_parse)


def _searcher(level: Level) -> HotHandler:
    async def search(http: Exchange) -> None:
        asked = _read(http, level)
        plan = plan_documents(parse_accept(http.header(b"accept"), asked.accept), single=False)
        root = http.root_url
        found = await http.archive.search.run(http.access, asked.query, root)
        # Texts that repeat a parameter hold no line ends (`qido` sees to it).
        headers = [warning(root, text) for text in asked.query.warnings]
        if found.more and not asked.limited:
            headers.append(warning(root, qido.MORE_RESULTS))
        if not found.rows:
            await send_bytes(http, 204, headers)
            return
        await send_documents(http, plan, found.rows, headers)

    search.__name__ = f"search_{level}"
    return search


_DESCRIPTION = (
    "Every attribute of the level matches, by keyword or tag, nested ones with a dot between: single values, "
    "wildcards `*` and `?`, ranges `a-b`, UID lists separated by comma or backslash. Empty values match everything. "
    "The answer holds the attributes of PS3.18 10.6.3.3 and those of `includefield`."
)
_PARAMETERS = (
    Parameter("PatientName", "query", "any attribute of the level, by keyword or tag", "Doe*"),
    Parameter("StudyDate", "query", "a range of dates", "20260101-20260131"),
    Parameter(
        "includefield", "query", "attributes to return: repeated or comma-separated; `all`", "00081030,PatientSex"
    ),
    Parameter("limit", "query", "number of results at most", "25", kind="integer"),
    Parameter("offset", "query", "number of results to skip", "50", kind="integer"),
    Parameter("fuzzymatching", "query", "`true` asks for fuzzy matching of names", "false", kind="boolean"),
    DOCUMENT_ACCEPT,
)


def _operation(path: str, level: Level, what: str) -> Operation:
    return Operation(
        "GET",
        path,
        "dicom.search",
        "QIDO-RS",
        f"Search for {what}",
        _DESCRIPTION,
        _searcher(level),
        (
            Answer(200, "Matches.", (*json_body([STUDY_ROW]), XML_PARTS), ("Warning",)),
            Answer(204, "Nothing matches.", headers=("Warning",)),
        ),
        _PARAMETERS,
        errors=(BadQuery, NotAcceptable, Unavailable),
    )


OPERATIONS = (
    _operation("{root}/studies", Level.STUDY, "studies"),
    _operation("{root}/series", Level.SERIES, "series in all studies"),
    _operation("{root}/instances", Level.INSTANCE, "instances in all studies"),
    _operation("{root}/studies/{study}/series", Level.SERIES, "series of a study"),
    _operation("{root}/studies/{study}/instances", Level.INSTANCE, "instances of a study"),
    _operation("{root}/studies/{study}/series/{series}/instances", Level.INSTANCE, "instances of a series"),
)
