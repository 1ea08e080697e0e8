"""Searches of a worklist and the filters of subscriptions (PS3.18 11.9, 11.10) in the one search language."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from dicomweb import qido
from dicomweb.errors import BadQuery
from dicomweb.query import FUZZY_UNSUPPORTED, Query, parse_path
from dicomweb.tags import Level
from dicomweb.ups_model import TRANSACTION_UID

MAX_FILTER_KEYS = 20
_NEVER_MATCHED = "The match parameter TransactionUID is not supported for this search. It has been ignored."
_NEXT_KEY = re.compile(r",(?=[0-9A-Za-z.]+=)")
_NOT_KEYS = frozenset(("deletionlock", "filter", "accept", "charset"))


def parse(params: Iterable[tuple[str, str]], max_limit: int, default_limit: int) -> Query:
    """The query of `GET /workitems`; every attribute of a step may be a key, at any depth. Raises BadQuery."""
    query = qido.parse(Level.INSTANCE, None, None, params, max_limit, default_limit)
    # The Transaction UID is the performer's lock: it can be neither asked for nor guessed at (PS3.4 table CC.2.5-3).
    matches = tuple(match for match in query.matches if TRANSACTION_UID not in match.path)
    warnings = list(query.warnings)
    if len(matches) < len(query.matches):
        warnings.append(_NEVER_MATCHED)
    if query.fuzzy:
        warnings.append(FUZZY_UNSUPPORTED)
    return replace(query, matches=matches, fuzzy=False, warnings=tuple(warnings))


def filter_keys(params: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The matching keys of a subscription: `filter=name=value,name=value`, or parameters of their own."""
    keys: list[tuple[str, str]] = []
    for name, value in params:
        if name.lower() == "filter":
            for part in _NEXT_KEY.split(value):
                key, equals, text = part.partition("=")
                if not equals:
                    raise BadQuery("the filter is not a list of attribute=value", attribute="filter")
                keys.append((key, text))
        elif name.lower() not in _NOT_KEYS:
            keys.append((name, value))
    return keys


def parse_filter(keys: Sequence[tuple[str, str]]) -> Query:
    """The conditions that the keys stand for. BadQuery when they are none, or more than a search may have."""
    if len(keys) > MAX_FILTER_KEYS:
        raise BadQuery(f"a filter has at most {MAX_FILTER_KEYS} keys", attribute="filter")
    for name, _ in keys:
        if parse_path(name) is None:
            raise BadQuery("a filter has attributes and nothing else", attribute="filter")
    query = parse(keys, 1, 1)
    if not query.matches:
        raise BadQuery("a filter needs an attribute with a value", attribute="filter")
    return query
