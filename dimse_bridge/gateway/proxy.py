"""C-FIND at the gateway: a query becomes a search at the archive, by QIDO-RS or MWL-RS (PS3.18 10.6 and 14.4).

Nothing is kept: while the archive cannot be reached, queries fail with 0xA700.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import orjson
from pynetdicom.dimse_primitives import C_FIND, DIMSEPrimitive

from dicomweb import tags
from dicomweb.errors import BadQuery, Unavailable
from dicomweb.identifier import IdentifierWriter, Items, keys_of, narrowed, read_identifier
from dicomweb.repertoire import answers_in
from dicomweb.tags import Level
from dimse_bridge import find, models, status
from dimse_bridge.contexts import MODALITY_WORKLIST
from dimse_bridge.gateway.client import Client, Unreachable
from dimse_bridge.service import Entry, Exchange
from storage.settings import Settings

_WORKLIST_PATH: Final = "modality-scheduled-procedure-steps"
_ACCEPT: Final = "application/dicom+json"
_PAGE: Final = 200
_PAGE_MAX: Final = 32 << 20  # bytes
_CHARACTER_SET, _RETRIEVE_AET = "00080005", "00080054"
_PATIENT, _MODALITY, _MODALITIES = ("00100020", "00100021"), "00080060", "00080061"
_STUDY_UID, _SERIES_UID = "0020000D", "0020000E"

Params: TypeAlias = list[tuple[str, str]]
Row: TypeAlias = dict[str, Any]


class Proxy:
    """Serves queries from the archive that a client reaches."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._limit = settings.qido_max_limit
        self._character_set = settings.dimse_character_set

    def entries(self) -> Mapping[tuple[type[DIMSEPrimitive], str], Entry]:
        """The services of this proxy."""
        found: dict[tuple[type[DIMSEPrimitive], str], Entry] = {
            (C_FIND, sop_class): Entry(self.find, "find") for sop_class in models.FIND
        }
        found[C_FIND, MODALITY_WORKLIST] = Entry(self.worklist, "worklist")
        return found

    async def find(self, exchange: Exchange) -> None:
        """C-FIND of patients, studies, series, instances (PS3.4 C.4.1)."""
        context = exchange.context
        asked = find.parse(
            exchange.identifier,
            context.transfer_syntax,
            models.FIND[context.abstract_syntax],
            limit=self._limit,
            extended=exchange.association.extended.get(context.abstract_syntax, b""),
            forced=self._character_set,
        )
        query = asked.query
        path, above = _resource(query.level, query.study, query.series)
        params = [pair for pair in _params(asked.keys, query.level) if pair[0] not in above]
        if query.fuzzy:
            params.append(("fuzzymatching", "true"))
        rows = self._rows(path, params)
        writer = IdentifierWriter(context.transfer_syntax)

        def written(row: Row) -> bytes:
            answer = asked.answer(row, "")
            answer[_RETRIEVE_AET] = {"vr": "AE"}  # the gateway has nothing to retrieve
            return writer.write(answer, asked.character_sets)

        pending = status.PENDING_PARTIAL if asked.partial else status.PENDING
        known: set[str] | None = set() if query.level is Level.PATIENT else None
        await self._answer(exchange, _first_of_each(rows, known), written, pending)

    async def worklist(self, exchange: Exchange) -> None:
        """C-FIND of the modality worklist (PS3.4 K.4.1)."""
        syntax = exchange.context.transfer_syntax
        identifier = read_identifier(exchange.identifier, syntax)
        asked = tuple(element for element in identifier.elements if element.tag != _CHARACTER_SET)
        character_sets = answers_in(self._character_set.encode() or identifier.character_set)
        writer = IdentifierWriter(syntax)

        def written(row: Row) -> bytes:
            found = {element.tag: row.get(element.tag) or {"vr": element.vr} for element in asked}
            for element in asked:
                if element.items and found[element.tag]["vr"] == "SQ":
                    found[element.tag] = narrowed(found[element.tag], element.items[0])
            return writer.write(found, character_sets)

        rows = self._rows(_WORKLIST_PATH, list(_params(asked, None)), missing="the archive offers no worklist")
        await self._answer(exchange, rows, written, status.PENDING)

    async def _answer(
        self, exchange: Exchange, rows: AsyncGenerator[Row, None], written: Callable[[Row], bytes], pending: int
    ) -> None:
        """Pending answers as they are read, then the final status."""
        count = 0
        try:
            async with aclosing(rows):
                async for row in rows:
                    if exchange.cancelled:
                        break
                    if count == self._limit:
                        await exchange.respond(status.OUT_OF_RESOURCES, comment=f"more than {count} matches")
                        return
                    await exchange.respond(pending, identifier=written(row))
                    count += 1
        except Unreachable as error:
            raise Unavailable(error.why) from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Unavailable("the archive's answer cannot be understood") from error
        await exchange.respond(status.CANCELLED if exchange.cancelled else status.SUCCESS)

    async def _rows(self, path: str, params: Params, *, missing: str = "") -> AsyncGenerator[Row, None]:
        """All matches, a page at a time; `missing`: what it means that the resource is not there."""
        seen: object = None
        for offset in range(0, self._limit + 1, _PAGE):
            page = [*params, ("limit", str(_PAGE)), ("offset", str(offset))]
            rows = await self._page(path, page, missing)
            if not rows or rows[0] == seen:  # an archive that does not know pages repeats itself
                return
            for row in rows:
                yield row
            if len(rows) != _PAGE:
                return
            seen = rows[0]

    async def _page(self, path: str, params: Params, missing: str) -> list[Row]:
        answer = await self._client.get(path, params, _ACCEPT, max_answer=_PAGE_MAX)
        match answer.status:
            case 200:
                rows = orjson.loads(answer.body)
                if not isinstance(rows, list):
                    raise Unreachable("the archive's answer is not a list of matches")
                return rows
            case 204:
                return []
            case 404 if not missing:
                return []
            case 404 | 501:
                raise Unreachable(missing or "the archive offers no such search")
            case 400 | 413:
                raise BadQuery(f"the archive refused the search ({answer.status})")
            case _:
                raise Unreachable(f"the archive answered {answer.status}")


def _resource(level: Level, study: str | None, series: str | None) -> tuple[str, frozenset[str]]:
    """The path of a search, and the attributes that it has in it already (PS3.18 table 10.6.1-1)."""
    if level in (Level.PATIENT, Level.STUDY) or study is None:
        names = {Level.SERIES: "series", Level.INSTANCE: "instances"}
        return names.get(level, "studies"), frozenset()
    if level is Level.SERIES:
        return f"studies/{study}/series", frozenset({_STUDY_UID})
    if series is None:
        return f"studies/{study}/instances", frozenset({_STUDY_UID})
    return f"studies/{study}/series/{series}/instances", frozenset({_STUDY_UID, _SERIES_UID})


def _params(elements: Items, level: Level | None) -> Iterable[tuple[str, str]]:
    """Keys with a value are matched, the others are asked for (PS3.18 8.3.4)."""
    fields: dict[str, None] = {}
    for key in keys_of(elements):
        value = key.texts[0].strip(" \0")
        if not value or value == "*":
            fields[key.path[0]] = None
            continue
        path = key.path
        if level is Level.STUDY and path == (_MODALITY,):
            path = (_MODALITIES,)
        if tags.vr_of(path[-1]) == "UI":
            value = value.replace("\\", ",")
        yield ".".join(path), value
    if level is Level.PATIENT:
        fields.update(dict.fromkeys(_PATIENT))
    yield from (("includefield", tag) for tag in fields)


async def _first_of_each(rows: AsyncGenerator[Row, None], known: set[str] | None) -> AsyncGenerator[Row, None]:
    """Of studies the first of each patient, where `known` is a set; QIDO-RS has no patients."""
    async for row in rows:
        if known is not None:
            patient = repr([row.get(tag) for tag in _PATIENT])
            if patient in known:
                continue
            known.add(patient)
        yield row
