"""Jobs that modify, anonymize, merge and split: each instance is a part, and no part is done twice.

A part that a killed worker had stored is stored again as the very same file, since UIDs and pseudonyms come from the
job's key. Sources go when all parts are done, in the transaction that notes where the new resources come from.
"""

import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from dicomweb.deidentify import Pseudonyms
from dicomweb.errors import ArchiveError, NotFound, Unavailable
from dicomweb.orthanc_kinds import ANONYMIZED_FROM, MODIFIED_FROM
from dicomweb.tags import Level
from storage.access import SCOPES, Access
from storage.archive import Archive
from storage.job_items import JobItems, job_items
from storage.jobs import Claimed, Done, Handler, Progress
from storage.modification import Asker
from storage.modification_plan import Plan, plan_of
from storage.parallel import side_by_side
from storage.resource import PLURAL, spelled
from storage.retrieve import Instance
from storage.rows import Described, Shared
from storage.side_objects import stored_metadata

MODIFY: Final = "ResourceModification"
MERGE: Final = "MergeStudy"
SPLIT: Final = "SplitStudy"

# Parts that are looked for together, and those of them that are worked on at the same time.
_BATCH: Final = 128
_AT_ONCE: Final = 16
_FAILED: Final = 1
_LEVELS: Final = tuple(Level)


def handlers(archive: Archive) -> Mapping[str, Handler]:
    """The kinds of jobs that are worked on here."""
    return {kind: partial(run, archive) for kind in (MODIFY, MERGE, SPLIT)}


async def run(archive: Archive, job: Claimed, _folder: Path, progress: Progress) -> Done:
    """Edit and store each instance of the job, then settle what becomes of their sources."""
    work = _Work(archive, job, await _plan(archive, job))
    async with job_items(archive.db, job.tenant, job.id) as items:
        batch: list[tuple[int, str, Instance | None]] = []
        async for part in items.instances():
            batch.append(part)
            if len(batch) == _BATCH:
                await work.parts(items, batch, progress)
                batch = []
        await work.parts(items, batch, progress)
        await items.flush()
        return Done(await work.end(items))


async def _plan(archive: Archive, job: Claimed) -> Plan:
    """The plan of a job, with the UIDs that are replaced wherever they are referred to."""
    content, job_id, members = job.content, uuid.UUID(job.id), set()
    if Level.INSTANCE in content["fresh"]:
        members |= {row["content"] for row in await archive.db.fetch("modification_contents", job_id)}
    for row in await archive.db.fetch("modification_members", job.tenant, job_id):
        members |= {row[f"{level}_uid"] for level in (Level.STUDY, Level.SERIES) if level in content["fresh"]}
    return plan_of(content, members or None, in_place=content["in_place"])


class _Work:
    """One job's work."""

    def __init__(self, archive: Archive, job: Claimed, plan: Plan) -> None:
        self._archive = archive
        self._job = job
        self._content = job.content
        self._plan = plan
        self._asker = Asker(job.content["principal"], job.content["remote"])
        self._access = Access(job.tenant, self._asker.principal, SCOPES)
        # A study of which some instances were overwritten and others not would be two things at once.
        self._permissive = job.content["permissive"] and not plan.in_place

    async def parts(self, items: JobItems, batch: list[tuple[int, str, Instance | None]], progress: Progress) -> None:
        """Do some parts. Raises the error of the first that cannot be done, unless failures are permitted."""

        async def one(part: tuple[int, str, Instance | None]) -> None:
            number, _, instance = part
            try:
                if instance is None:
                    raise NotFound("an instance is not stored any more")
                stored = await self._archive.modification.store(self._access, instance, self._plan, self._asker)
            except Unavailable:
                raise
            except ArchiveError as error:
                await items.note(number, _FAILED, error.message)
                if not self._permissive:
                    raise
            else:
                await items.note(number, 0, stored.orthanc.instance.replace("-", ""))
            progress(items.fraction)

        await side_by_side(one, batch, _AT_ONCE)

    async def end(self, items: JobItems) -> dict[str, Any]:
        """Settle it; what is told of the job. The sources stay where a part has failed."""
        content, db = self._content, self._archive.db
        if self._plan.in_place:
            await self._restate()
        levels = [level for level in _LEVELS if level in content["noted"]]
        await db.fetch_value(
            "modification_end",
            self._job.tenant,
            uuid.UUID(self._job.id),
            ANONYMIZED_FROM if content["anonymize"] else MODIFIED_FROM,
            "Anonymized" if content["anonymize"] else "Modified",
            levels,
            content["keep_labels"],
            not content["keep_source"] and not items.failed,
            timedelta(seconds=self._archive.settings.tomb_grace_s),
        )
        said = await self._made()
        if content["anonymize"]:
            burned_in = await db.fetch_value("modification_burned_in", self._job.tenant, uuid.UUID(self._job.id))
            said |= {"BurnedInAnnotations": burned_in} if burned_in else {}
        return {"said": said}

    async def _restate(self) -> None:
        """Have the rows of series and studies say what their overwritten instances say."""
        db, tenant = self._archive.db, self._job.tenant
        whole = self._content["level"] in (Level.PATIENT, Level.STUDY)
        grace = timedelta(seconds=self._archive.settings.tomb_grace_s)
        restated = set()
        for row in await db.fetch("modification_members", tenant, uuid.UUID(self._job.id)):
            first = await db.fetch_row("modification_first", tenant, row["series_uid"])
            if first is None:
                continue
            metadata = await stored_metadata(self._archive.objects, self._archive.damage, tenant, first)
            described = Described.of(metadata.inflate())
            if whole and row["study_uid"] not in restated:
                restated.add(row["study_uid"])
                study = orjson.dumps(described.study_proposal()).decode()
                await db.execute("restate_study", tenant, grace, False, None, None, study)
            proposal = described.series_proposal(Shared.of(described.elements))
            await db.execute("restate_series", tenant, False, None, None, orjson.dumps(proposal).decode())

    async def _made(self) -> dict[str, Any]:
        """What the answer says of the new resources."""
        answer, content = self._content["answer"], self._content
        wanted = list(_LEVELS) if answer == "bulk" else [Level.PATIENT, Level(answer)]
        rows = await self._archive.db.fetch("modification_made", self._job.tenant, uuid.UUID(self._job.id), wanted)
        made = [(Level(row["level"]), spelled(row["orthanc_id"])) for row in rows]
        if answer == "bulk":
            return {"Resources": [_reference(level, identifier) for level, identifier in made]}
        found = dict(reversed(made))
        if self._job.kind == MODIFY:
            with suppress(KeyError):
                return _reference(Level(answer), found[Level(answer)]) | {"PatientID": found[Level.PATIENT]}
        if self._job.kind == SPLIT and Level.STUDY in found:
            key = Pseudonyms(content["key"].encode("utf-8", "replace"))
            return {"TargetStudy": found[Level.STUDY], "TargetStudyUID": key.uid(content["study"])}
        return {}


def _reference(level: Level, identifier: str) -> dict[str, Any]:
    return {"ID": identifier, "Path": f"/{PLURAL[level]}/{identifier}", "Type": str(level).capitalize()}
