"""Another archive that speaks Orthanc's REST API, as a migration reads it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

import orjson

from dicomweb.orthanc_kinds import ATTACHMENTS, DICOM_FILE, FIRST_USER, METADATA, ORIGINS
from dicomweb.tags import Level
from dicomweb.uids import is_orthanc_id
from storage.orthanc_arrival import ARRIVAL
from storage.orthanc_connection import Connection, SourceError, SourceGone
from storage.resource import PLURAL
from storage.resources import title
from storage.settings import Settings

_REMEMBERED: Final = 100_000  # series
_UID_OF: Final = {
    Level.PATIENT: "PatientID",
    Level.STUDY: "StudyInstanceUID",
    Level.SERIES: "SeriesInstanceUID",
    Level.INSTANCE: "SOPInstanceUID",
}
# What Orthanc's plugins keep for themselves among the numbers of clients: it is of no use to anybody else.
_CACHES: Final = frozenset({"4200", "4201", "4202", "4301"})


@dataclass(frozen=True, slots=True)
class Attached:
    """An attachment of a client. `number` and `md5` where the source tells them; `md5` in hexadecimal digits, or ""."""

    name: str
    number: int | None
    size: int | None = None
    md5: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A resource of the source.

    `uid`: PatientID or the UID of its level. `size` and `md5`: of an instance's file, where told. `metadata` (of
    clients, and what it was made from, by name), `attached` and `protected` are None where they have to be asked for
    (`complete`), `arrival` (how an instance came there, by name) where that has to be (`arrival_of`).
    """

    level: Level
    id: str
    uid: str
    labels: tuple[str, ...] = ()
    size: int | None = None
    md5: str = ""
    metadata: Mapping[str, str] | None = None
    arrival: Mapping[str, str] | None = None
    attached: tuple[Attached, ...] | None = None
    protected: bool | None = None

    @property
    def path(self) -> str:
        """Where the source has it."""
        return f"/{PLURAL[self.level]}/{self.id}"


@dataclass(frozen=True, slots=True)
class ChangesPage:
    """What happened to which resources, in order; `last`: where the next page begins."""

    resources: tuple[tuple[Level, str], ...]
    last: int
    done: bool


class OrthancSource:
    """The source at a URL. Use it as an asynchronous context: it asks for the version first."""

    def __init__(self, settings: Settings, url: str, *, parallel: int) -> None:
        """Reads certificate and token files. Raises SettingError for what cannot be used."""
        self._http = Connection(settings, url, parallel=parallel)
        self.host = urlsplit(url).hostname or ""
        self._extended = False
        self._bare: dict[str, bool] = {}
        self.metadata_numbers: Mapping[str, int] = {}

    async def __aenter__(self) -> Self:
        """Ask who it is. Raises SourceError."""
        try:
            await self._greet()
        except BaseException:
            await self._http.close()
            raise
        return self

    async def _greet(self) -> None:
        said = await self._http.json("/system")
        if not isinstance(said, dict) or not {"ApiVersion", "Version", "DicomAet"} <= said.keys():
            raise SourceError("no Orthanc answers there")
        self._extended = bool((said.get("Capabilities") or {}).get("HasExtendedFind"))
        numbers = said.get("UserMetadata") or {}
        self.metadata_numbers = {str(name): int(number) for name, number in numbers.items()}

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    # -- what there is

    async def count(self) -> int:
        """How many instances it says that it has."""
        return _whole(await self._http.json("/statistics"), "CountInstances")

    async def page(self, level: Level, since: int, limit: int) -> list[Found]:
        """A part of the list of all resources of a level, in the source's order."""
        query = f"since={since}&limit={limit}&expand"
        if self._extended:
            query += "&response-content=MainDicomTags;Metadata;Labels;Attachments"
        answer = await self._http.json(f"/{PLURAL[level]}?{query}")
        found = [_found(level, each, extended=self._extended) for each in _items(answer)]
        return found if self._extended or not found else await self._described(level, answer, found)

    async def _described(self, level: Level, answer: list[Mapping[str, Any]], found: list[Found]) -> list[Found]:
        """A page of an Orthanc before 1.12.5, with what can be learned of many resources by one request."""
        asked = {"Resources": [each.id for each in found], "Level": title(level), "Metadata": True}
        try:
            told = await self._http.json("/tools/bulk-content", orjson.dumps(asked))
        except SourceGone:  # before 1.9.4: each is asked
            told = []
        noted = {str(each["ID"]): each["Metadata"] for each in _items(told) if "Metadata" in each}
        described = [_noted(each, noted[each.id]) if each.id in noted else each for each in found]
        if level is not Level.INSTANCE:
            return described
        bare = [await self._is_bare(str(each.get("ParentSeries", ""))) for each in answer]
        return [replace(each, attached=()) if nothing else each for each, nothing in zip(described, bare, strict=True)]

    async def _is_bare(self, series: str) -> bool:
        """Whether a series holds the files of its instances and nothing else, by their sizes together."""
        if series not in self._bare:
            while len(self._bare) >= _REMEMBERED:
                del self._bare[next(iter(self._bare))]
            try:
                sizes = await self._http.json(f"/series/{series}/statistics")
            except SourceGone:
                sizes = {}
            self._bare[series] = "DiskSize" in sizes and sizes["DiskSize"] == sizes.get("DicomDiskSize")
        return self._bare[series]

    async def resource(self, level: Level, identifier: str) -> Found:
        """One of them. Raises SourceGone."""
        return _found(level, await self._http.json(f"/{PLURAL[level]}/{identifier}"), extended=False)

    async def complete(self, found: Found) -> Found:
        """The same resource with everything that clients added to it. Raises SourceGone, SourceError."""
        async with self._unless_lost(found.path):
            return await self._complete(found)

    async def _complete(self, found: Found) -> Found:
        if found.metadata is None:
            found = replace(found, metadata=_of_clients(await self._http.json(f"{found.path}/metadata?expand")))
        if found.attached is None or any(each.name.isdecimal() for each in found.attached):
            # Names as they are known there; numbers since Orthanc 1.10.
            known = {each.number: each for each in found.attached or ()}
            told = await self._http.json(f"{found.path}/attachments?full")
            named = told if isinstance(told, dict) else {name: _number(name) for name in told}
            found = replace(
                found,
                attached=tuple(
                    replace(known[number], name=name) if number in known else Attached(name, number)
                    for name, number in named.items()
                    if _is_attachment_of_client(name, number)
                ),
            )
        if found.level is Level.PATIENT and found.protected is None:
            found = replace(found, protected=(await self._http.text(f"{found.path}/protected")) == "1")
        return found

    async def arrival_of(self, found: Found) -> Mapping[str, str]:
        """How and when an instance came there, by the names of metadata; empty where it was deleted meanwhile."""
        if found.arrival is not None:
            return found.arrival
        try:
            return _arrival(await self._http.json(f"{found.path}/metadata?expand"))
        except SourceGone:
            return {}

    async def md5(self, found: Found, name: str) -> str:
        """The MD5 of an attachment in hexadecimal digits; "" where the source keeps none."""
        try:
            return (await self._http.text(f"{found.path}/attachments/{quote(name, safe='')}/md5")).strip().lower()
        except SourceGone:
            return ""

    async def modalities(self) -> Mapping[str, Any]:
        """The declared modalities by name."""
        answer = await self._http.json("/modalities?expand")
        return answer if isinstance(answer, dict) else {}

    async def remotes(self, path: str) -> Mapping[str, Any]:
        """The peers or DICOMweb servers that are declared there, by name and without what is secret of them."""
        try:
            answer = await self._http.json(f"{path}?expand")
        except SourceGone:  # a source without the plug-in
            return {}
        return answer if isinstance(answer, dict) else {}

    async def last_change(self) -> int:
        """Where the change feed ends now."""
        return _whole(await self._http.json("/changes?last"), "Last")

    async def changes(self, since: int, limit: int) -> ChangesPage:
        """What happened after the number `since`."""
        answer = await self._http.json(f"/changes?since={since}&limit={limit}")
        last, levels = _whole(answer, "Last"), {level.value: level for level in Level}
        found = [
            (levels[str(each.get("ResourceType", "")).lower()], str(each.get("ID", "")))
            for each in _items(answer.get("Changes"))
            if str(each.get("ResourceType", "")).lower() in levels and is_orthanc_id(str(each.get("ID", "")))
        ]
        return ChangesPage(tuple(dict.fromkeys(found)), last, bool(answer.get("Done", True)))

    # -- requests

    @asynccontextmanager
    async def content(self, found: Found, attachment: str | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of an instance, or of an attachment by its name. Raises SourceError, also within the block.

        SourceGone: it was deleted. A file that is lost while the source still lists it is another SourceError.
        """
        if attachment is None:
            listed, path = found.path, f"{found.path}/file"
        else:
            below = f"{found.path}/attachments/{quote(attachment, safe='')}"
            listed, path = f"{below}/size", f"{below}/data"
        async with self._unless_lost(listed), self._http.stream(path) as chunks:
            yield chunks

    @asynccontextmanager
    async def _unless_lost(self, listed: str) -> AsyncIterator[None]:
        """Tells what was deleted from what was lost: to both it answers 404, but the lost is `listed` still."""
        try:
            yield
        except SourceGone as error:
            await self._http.text(listed)
            raise SourceError(f"the source has lost what it lists: {error.why}") from error


def _items(answer: Any) -> list[Mapping[str, Any]]:
    if not isinstance(answer, list) or not all(isinstance(each, dict) for each in answer):
        raise SourceError("the source's list is not one of resources")
    return answer


def _whole(answer: Any, name: str) -> int:
    try:
        return int(answer[name])
    except (KeyError, TypeError, ValueError):
        raise SourceError(f"the source's answer has no number {name}") from None


def _found(level: Level, told: Any, *, extended: bool) -> Found:
    try:
        return _parsed(level, told, extended=extended)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise SourceError(f"the source describes a {level} in another way than Orthanc") from None


def _parsed(level: Level, told: Mapping[str, Any], *, extended: bool) -> Found:
    identifier = str(told.get("ID", ""))
    if not is_orthanc_id(identifier):
        raise SourceError("the source describes a resource without an identifier")
    attached = [
        Attached(str(each["ContentType"]), int(each["ContentType"]), int(each["UncompressedSize"]), _hex(each))
        for each in told.get("Attachments", ())
    ]
    file = next((each for each in attached if each.number == DICOM_FILE), None)
    size = file.size if file is not None else told.get("FileSize")
    found = Found(
        level,
        identifier,
        str(told.get("MainDicomTags", {}).get(_UID_OF[level], "")),
        tuple(map(str, told.get("Labels") or ())),
        None if size is None else int(size),
        "" if file is None else file.md5,
        attached=tuple(each for each in attached if _is_attachment_of_client(each.name, each.number))
        if extended and "Attachments" in told
        else None,
        protected=told.get("IsProtected"),
    )
    return _noted(found, told["Metadata"]) if extended and "Metadata" in told else found


def _noted(found: Found, metadata: Mapping[str, Any]) -> Found:
    return replace(found, metadata=_of_clients(metadata), arrival=_arrival(metadata))


def _arrival(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in metadata.items() if name in ARRIVAL}


def _hex(attachment: Mapping[str, Any]) -> str:
    return str(attachment.get("UncompressedMD5", "")).lower()


def _of_clients(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Without what belongs to Orthanc itself and to its plugins, but with what a resource was made from."""
    return {
        name: str(value)
        for name, value in metadata.items()
        if name in ORIGINS or (
            name not in METADATA and name not in _CACHES and not (name.isdecimal() and int(name) < FIRST_USER)
            and name not in ("IsProtected", "PatientRecyclingOrder")
        )
    }  # fmt: skip


def _is_attachment_of_client(name: str, number: int | None) -> bool:
    return name not in ATTACHMENTS and str(number) not in _CACHES and (number is None or number >= FIRST_USER)


def _number(name: str) -> int | None:
    return int(name) if name.isascii() and name.isdecimal() else None
