"""C-FIND on the archive (PS3.4 C.4.1): an identifier becomes a Query, each row of its result an answer."""

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from pynetdicom.dimse_primitives import C_FIND

from dicomweb.identifier import Element, IdentifierWriter, Member, keys_of, narrowed, read_identifier
from dicomweb.query import Key, Options, Path, Query
from dicomweb.query_levels import assemble
from dicomweb.repertoire import Repertoire, answers_in
from dicomweb.tags import Level
from dicomweb.uids import is_uid
from dimse_bridge import models, status
from dimse_bridge.service import Entry, Exchange
from storage.rows import SERIES_SUMMARY, STUDY_SUMMARY

# Rows in memory, and in one statement.
_PAGE: Final = 200
_PATIENT_ID, _STUDY_UID, _SERIES_UID, _SOP_UID = "00100020", "0020000D", "0020000E", "00080018"
_LEVEL: Final = "00080052"
_UNIQUE: Final = {
    Level.PATIENT: (_PATIENT_ID,),
    Level.STUDY: (_STUDY_UID,),
    Level.SERIES: (_STUDY_UID, _SERIES_UID),
    Level.INSTANCE: (_STUDY_UID, _SERIES_UID, _SOP_UID),
}
# SpecificCharacterSet, QueryRetrieveLevel, RetrieveAETitle, RetrieveURL: what an answer says about itself.
_OURS: Final = frozenset({"00080005", _LEVEL, "00080054", "00081190"})
# What a row of the level has anyway, so that the index need not look it up.
_GIVEN: Final = {
    Level.PATIENT: frozenset[str](),
    Level.STUDY: frozenset(STUDY_SUMMARY),
    Level.SERIES: frozenset(SERIES_SUMMARY),
    Level.INSTANCE: frozenset[str](),
}


@dataclass(frozen=True, slots=True)
class Find:
    """A parsed request: the search, and what its answers hold; `partial` when a key could not be matched."""

    query: Query
    keys: tuple[Element, ...]
    partial: bool
    character_sets: tuple[Repertoire, ...]

    def answer(self, found: Mapping[str, Member], aet: str) -> dict[str, Member]:
        """The identifier for one row: every requested key, empty where nothing is known.

        The unique keys of the level and those above are there as well, and where to retrieve from (PS3.4 C.4.1.1.3.2).
        """
        level = self.query.level
        answer: dict[str, Member] = {tag: found[tag] for tag in _UNIQUE[level] if tag in found}
        # A search below a given study or series does not repeat it in each row.
        for tag, uid in ((_STUDY_UID, self.query.study), (_SERIES_UID, self.query.series)):
            if uid is not None:
                answer[tag] = {"vr": "UI", "Value": [uid]}
        for key in self.keys:
            member = found.get(key.tag) or answer.get(key.tag) or {"vr": key.vr}
            if key.items and member["vr"] == "SQ":
                member = narrowed(member, key.items[0])
            answer[key.tag] = member
        answer[_LEVEL] = {"vr": "CS", "Value": [models.NAMES[level]]}
        answer["00080054"] = {"vr": "AE", "Value": [aet]}
        return answer


def parse(
    encoded: bytes,
    transfer_syntax: str,
    levels: tuple[Level, ...],
    *,
    limit: int,
    extended: bytes = b"",
    forced: str = "",
) -> Find:
    """The search that a C-FIND-RQ identifier asks for; at most `limit` matches.

    Unique keys of upper levels may be missing (relational queries, PS3.4 C.4.1.2.2). `extended` is what was negotiated,
    `forced` the character set of the answers, "" for that of the request. Raises BadQuery, and IdentityMismatch when
    the level does not belong to the information model.
    """
    identifier = read_identifier(encoded, transfer_syntax)
    level = models.level_named(identifier.get(_LEVEL), levels)
    wanted = {element.tag: element for element in identifier.elements if element.tag not in _OURS}
    keys = {key.path: key for key in keys_of(wanted.values())}
    base = Query(
        level=level,
        study=_single_uid(keys, _STUDY_UID) if level is not Level.PATIENT else None,
        series=_single_uid(keys, _SERIES_UID) if level in (Level.SERIES, Level.INSTANCE) else None,
        fuzzy=models.is_agreed(extended, models.FUZZY),
        limit=limit,
    )
    options = Options(
        every_value=models.is_agreed(extended, models.MULTIPLE_VALUES),
        empty_value=models.is_agreed(extended, models.EMPTY_VALUE),
        date_time=models.is_agreed(extended, models.DATE_TIME),
    )
    query = assemble(base, keys.values(), options=options)
    fields = tuple(path for path in query.fields if path[0] not in _GIVEN[level])
    return Find(
        replace(query, fields=fields),
        tuple(wanted.values()),
        bool(query.warnings),
        answers_in(forced.encode() or identifier.character_set),
    )


def _single_uid(keys: dict[Path, Key], tag: str) -> str | None:
    """The one UID of a unique key, which then leads the search instead of being one condition of many."""
    key = keys.get((tag,))
    if key is None or not is_uid(key.texts[0].strip("\0 ")):
        return None
    del keys[tag,]
    return key.texts[0].strip("\0 ")


async def find(exchange: Exchange) -> None:
    """Serve one C-FIND: pending answers as they are read, then the final status (PS3.4 C.4.1.1.4)."""
    association, context = exchange.association, exchange.context
    archive = association.archive
    asked = parse(
        exchange.identifier,
        context.transfer_syntax,
        models.FIND[context.abstract_syntax],
        limit=archive.settings.qido_max_limit,
        extended=association.extended.get(context.abstract_syntax, b""),
        forced=archive.settings.dimse_character_set,
    )
    writer = IdentifierWriter(context.transfer_syntax)
    pending = status.PENDING_PARTIAL if asked.partial else status.PENDING
    count, more = 0, False
    async with aclosing(archive.search.pages(association.access, asked.query, _PAGE)) as pages:
        async for page in pages:
            for number, row in enumerate(page.rows, 1):
                if exchange.cancelled:
                    await exchange.respond(status.CANCELLED)
                    return
                answer = writer.write(asked.answer(row, association.called_aet), asked.character_sets)
                # Behind the last row of the last page the final response follows.
                hold = number < len(page.rows) or not page.more
                await exchange.respond(pending, identifier=answer, hold=hold)
            count += len(page.rows)
            more = page.more
    if more:
        await exchange.respond(status.OUT_OF_RESOURCES, comment=f"more than {count} matches")
    else:
        await exchange.respond(status.CANCELLED if exchange.cancelled else status.SUCCESS)


ENTRIES: Final = {(C_FIND, sop_class): Entry(find, "find") for sop_class in models.FIND}
