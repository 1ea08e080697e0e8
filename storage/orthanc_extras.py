"""What clients added to resources of a source: labels, metadata, attachments, protection. Copied where it differs."""

from collections.abc import Awaitable, Callable
from typing import Final, Literal

from dicomweb.errors import ArchiveError, NotFound, Unavailable
from dicomweb.orthanc_kinds import ORIGINS, Kinds
from storage.access import LOCAL
from storage.archive import Archive
from storage.orthanc_connection import SourceDown, SourceError, SourceGone, SourceRefuses
from storage.orthanc_source import Attached, Found, OrthancSource
from storage.resource import Resource
from storage.revisions import Condition
from storage.spool import Spool

Extra = Literal["labels", "metadata", "attachments", "protected", "modalities", "remotes"]

_ANY: Final = Condition()


class _Unnamed(Exception):
    """A name of the source has no number here."""


class Extras:
    """Copies what belongs to one resource. `copied` and `failed` are told of each label, value and attachment."""

    def __init__(
        self,
        archive: Archive,
        source: OrthancSource,
        copied: Callable[[Extra], None],
        failed: Callable[[str, str], None],
    ) -> None:
        self._archive = archive
        self._source = source
        self._copied = copied
        self._failed = failed

    async def copy(self, told: Found) -> None:
        """Bring a resource here to its state at the source. Raises NotFound (it is not here), SourceError."""
        found = await self._source.complete(told)
        if not (found.labels or found.metadata or found.attached or found.protected):
            return
        here = await self._here(found)
        present = set(await self._archive.labels.of(LOCAL, here))
        for label in found.labels:
            if label not in present:
                await self._one("labels", f"{found.path}/labels/{label}", self._archive.labels.put(LOCAL, here, label))
        await self._metadata(found, here)
        await self._attachments(found, here)
        if found.protected and not await self._archive.lifecycle.protected(LOCAL, here.id):
            await self._archive.lifecycle.protect(LOCAL, here.id, protected=True)
            self._copied("protected")

    async def _here(self, found: Found) -> Resource:
        """The same resource in this archive: by identifier, or where PatientID is spelled otherwise by its UID."""
        resource = Resource.of(found.level, found.id)
        try:
            await self._archive.labels.of(LOCAL, resource)
        except NotFound:
            alike = await self._archive.resources.lookup(LOCAL, found.uid) if found.uid else []
            named = [each for each in alike if each.level is found.level]
            if len(named) != 1:
                raise NotFound(f"no such {found.level} is here") from None
            return named[0]
        return resource

    async def _metadata(self, found: Found, here: Resource) -> None:
        service = self._archive.metadata
        present = {entry.kind: entry.value for entry in await service.of(LOCAL, here)} if found.metadata else {}
        for name, value in (found.metadata or {}).items():
            path = f"{found.path}/metadata/{name}"
            if name in ORIGINS:
                if present.get(ORIGINS[name]) != value:
                    await self._one("metadata", path, service.put_origin(LOCAL, here, ORIGINS[name], value))
                continue
            try:
                kind = _kind(service.kinds, name, self._source.metadata_numbers.get(name), "user_metadata")
            except _Unnamed as error:
                self._failed(path, str(error))
                continue
            if present.get(kind) != value:
                await self._one("metadata", path, service.put(LOCAL, here, kind, value.encode(), _ANY))

    async def _attachments(self, found: Found, here: Resource) -> None:
        service = self._archive.attachments
        present = {each.kind: each for each in await service.of(LOCAL, here)} if found.attached else {}
        for each in found.attached or ():
            path = f"{found.path}/attachments/{each.name}"
            try:
                kind = _kind(service.kinds, each.name, each.number, "user_attachments")
            except _Unnamed as error:
                self._failed(path, str(error))
                continue
            same = present.get(kind)
            if same is not None and same.md5 is not None:
                md5 = each.md5 or await self._source.md5(found, each.name)
                if md5 == same.md5.hex():
                    continue
            await self._one("attachments", path, self._attach(found, each, here, kind))

    async def _attach(self, found: Found, attached: Attached, here: Resource, kind: int) -> None:
        archive = self._archive
        settings = archive.settings
        spool = Spool(
            archive.objects.spool_dir,
            memory_limit=settings.spool_memory,
            max_size=settings.max_body,
            limit="max_body",
            raw=True,
        )
        async with self._source.content(found, attached.name) as chunks:
            content = await spool.collect(chunks)
        await archive.attachments.put(LOCAL, here, kind, content, _ANY)

    async def _one(self, extra: Extra, path: str, work: Awaitable[object]) -> None:
        """Copy one; what is wrong with it alone is noted, and the next has its turn, as after one deleted meanwhile."""
        try:
            await work
        except (Unavailable, SourceDown, SourceRefuses):
            raise
        except SourceGone:
            return
        except (ArchiveError, SourceError) as error:
            self._failed(path, str(error))
        else:
            self._copied(extra)


def _kind(kinds: Kinds, name: str, number: int | None, setting: str) -> int:
    """The number here of a name at the source: by the name, else by the source's number, unless that is taken here."""
    if name in kinds.user:
        return kinds.user[name]
    if name.isascii() and name.isdecimal():
        return int(name)
    if number is None:
        raise _Unnamed(f"{name} has no number here: give it one in the setting {setting}")
    if number in kinds.user.values():
        raise _Unnamed(f"the number {number} of {name} is that of {kinds.name(number)} here: see the setting {setting}")
    return number
