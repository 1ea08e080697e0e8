"""Jobs that make the index anew from the stored files: each study is a part.

Rows and metadata are what a scan of the file gives now; labels, metadata and attachments that somebody added stay, and
so do times and what was announced. What a killed worker had done of a study is done again, which changes nothing.
"""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from dicomweb.errors import ArchiveError, CorruptObject, NotFound, TooLarge, Unavailable
from dicomweb.tags import Level
from storage.access import SCOPES, Access
from storage.archive import Archive
from storage.db import Record
from storage.job_items import job_items
from storage.jobs import Claimed, Done, Handler, Progress
from storage.parallel import side_by_side
from storage.resource import Resource
from storage.retrieve import Instance, instance_of
from storage.rows import Described, Shared
from storage.spool import Spooled

RECONSTRUCT: Final = "Reconstruct"
MAX_STUDIES: Final = 1_000_000

_AT_ONCE: Final = 8
_TRIES: Final = 4
_FAILED: Final = 1


async def place_of(archive: Archive, access: Access, resource: Resource) -> tuple[dict[str, Any], list[str]]:
    """The content of a job for a resource, and its parts. Raises NotFound."""
    access.require("dicom.write")
    rows = await archive.db.fetch("reconstruction_place", access.tenant, resource.level, resource.id)
    if not rows:
        raise NotFound(f"no such {resource.level}")
    content = {"level": str(resource.level), "series": rows[0]["series_uid"], "instance": rows[0]["sop_uid"]}
    return content, [row["study_uid"] for row in rows]


async def whole(archive: Archive, access: Access) -> tuple[dict[str, Any], list[str]]:
    """The same for everything that is stored. Raises TooLarge."""
    access.require("system.admin")
    rows = await archive.db.fetch("reconstruction_studies", access.tenant, MAX_STUDIES + 1)
    if len(rows) > MAX_STUDIES:
        raise TooLarge(f"the archive has more than {MAX_STUDIES} studies; ask for one patient after the other")
    return {"level": str(Level.PATIENT), "series": None, "instance": None}, [row["study_uid"] for row in rows]


def handlers(archive: Archive) -> Mapping[str, Handler]:
    """The kind of jobs that is worked on here."""
    return {RECONSTRUCT: partial(run, archive)}


async def run(archive: Archive, job: Claimed, _folder: Path, progress: Progress) -> Done:
    """One study after the other. The first that cannot be done ends the job, unless failures are permitted."""
    async with job_items(archive.db, job.tenant, job.id) as items:
        async for number, study in items.open():
            try:
                await _Study(archive, job, study).run()
            except Unavailable:
                raise
            except ArchiveError as error:
                await items.note(number, _FAILED, error.message)
                if not job.content["permissive"]:
                    raise
            else:
                await items.note(number, 0)
            progress(items.fraction)
        await items.flush()
        return Done({"said": {"StudiesCount": items.total, "FailedStudiesCount": items.failed}})


class _Study:
    """One part. First the study, whose patient decides how its instances are marked, then series, then instances."""

    def __init__(self, archive: Archive, job: Claimed, study: str) -> None:
        self._archive = archive
        self._access = Access(job.tenant, "reconstruct", SCOPES)
        self._study = study
        self._series: str | None = job.content["series"]
        self._instance: str | None = job.content["instance"]
        self._level = Level(job.content["level"])
        self._only = bool(job.content["only_this_level"])
        self._files = bool(job.content["files"])

    async def run(self) -> None:
        """Do it; what was deleted meanwhile is passed over."""
        if self._does(Level.STUDY):
            await self._restate_above(None)
        if not (self._does(Level.SERIES) or self._does(Level.INSTANCE)):
            return
        try:
            _, found = await self._archive.retrieve.instances(self._access, self._study, self._series)
        except NotFound:
            return
        if self._instance is not None:
            found = [each for each in found if each.sop == self._instance]
        if self._does(Level.SERIES):
            for series in dict.fromkeys(each.series for each in found):
                await self._restate_above(series)
        if self._does(Level.INSTANCE):
            await side_by_side(self._restate, found, _AT_ONCE)

    def _does(self, level: Level) -> bool:
        """Whether rows of a level are said anew; those of a patient come with the study's."""
        mine = Level.STUDY if self._level is Level.PATIENT else self._level
        return level is mine or not self._only

    async def _restate_above(self, series: str | None) -> None:
        """Have the row of the study, or of a series of it, say what its first file says."""
        archive, tenant = self._archive, self._access.tenant
        for _ in range(_TRIES):
            row = await archive.db.fetch_row("reconstruction_speaker", tenant, self._study, series)
            if row is None:
                return
            described = await self._described(row)
            speaker = row["sop_uid"], row["object_key"]
            if series is None:
                proposal = orjson.dumps(described.study_proposal()).decode()
                grace = timedelta(seconds=archive.settings.tomb_grace_s)
                done = await archive.db.fetch_value("restate_study", tenant, grace, True, *speaker, proposal)
            else:
                proposal = orjson.dumps(described.series_proposal(Shared.of(described.elements))).decode()
                done = await archive.db.fetch_value("restate_series", tenant, True, *speaker, proposal)
            if done:
                return
        raise Unavailable("an instance changes again and again")

    async def _described(self, row: Record) -> Described:
        """What the file of an instance says of the rows above it."""
        spooled = await self._read(instance_of(self._access.tenant, row["study_uid"], row))
        try:
            if spooled.sha256 != row["file_sha256"]:
                error = CorruptObject("the object is not what was stored")
                raise self._archive.damage.noted(self._access.tenant, row["sop_uid"], row["object_key"], error)
            return Described.of_scan(await self._archive.ingest.scan(spooled))
        finally:
            spooled.release()

    async def _restate(self, instance: Instance) -> None:
        archive, access = self._archive, self._access
        for _ in range(_TRIES):
            spooled = await self._read(instance)
            if await archive.ingest.restate(access, spooled, instance, announce=self._files):
                return
            try:
                instance = await archive.retrieve.instance(access, self._study, None, instance.sop)
            except NotFound:
                return
        raise Unavailable("an instance changes again and again")

    async def _read(self, instance: Instance) -> Spooled:
        return await self._archive.new_spool().collect(self._archive.retrieve.file(instance))
