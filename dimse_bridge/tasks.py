"""Jobs that ask something of other application entities. Their parts are rows, so that none is done twice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson
from pydicom.dataset import Dataset
from pynetdicom.presentation import StoragePresentationContexts

from dicomweb.errors import ArchiveError, BadRequest, PeerFailed
from dicomweb.media import EXPLICIT_LE, IMPLICIT_LE
from dicomweb.uids import is_uid
from dimse_bridge import status
from dimse_bridge.asking import get_model, keys_named, move_model, retrieval
from dimse_bridge.commitment_reports import take_report
from dimse_bridge.requestor import MAX_CONTEXTS, Proposal
from dimse_bridge.scu import Requestor, SubOperations
from dimse_bridge.sending import Sender
from storage.access import SCOPES, Access
from storage.ahead import with_next
from storage.archive import Archive
from storage.ingest import Stored
from storage.job_items import JobItems, job_items
from storage.jobs import Claimed, Done, Handler, Progress
from storage.modalities import Modality
from storage.provenance import Provenance

STORE: Final = "DicomModalityStore"
MOVE: Final = "DicomMoveScu"
GET: Final = "DicomGetScu"
COMMIT: Final = "StorageCommitmentScu"

_DELETED: Final = 0x0112  # no such SOP instance
_WARNING: Final = 0xB000
_CHUNK: Final = 1 << 20
# Seconds for which the association stays open, as some answer on it.
_REPORT_SECONDS: Final = 2.0
# What may come by C-GET: without knowing, in every form that is common, the uncompressed ones first.
_INCOMING: Final = (
    EXPLICIT_LE, IMPLICIT_LE, *(f"1.2.840.10008.1.2.{tail}" for tail in (
        "4.70", "4.57", "4.80", "4.90", "4.50", "4.51", "4.81", "4.91", "4.201", "4.202", "4.203", "5", "4.100",
        "4.102", "4.103", "4.107", "1.99",
    )),
)  # fmt: skip


def handlers(requestor: Requestor) -> Mapping[str, Handler]:
    """The kinds of jobs that are worked on here."""
    return {
        STORE: partial(run_store, requestor),
        MOVE: partial(run_move, requestor),
        GET: partial(run_get, requestor),
        COMMIT: partial(run_commit, requestor),
    }


def as_content(modality: Modality) -> dict[str, Any]:
    """A modality in a job's content: as it was when the job was made, without its user."""
    return asdict(modality) | {"allow": sorted(modality.allow), "username": None, "secret": None}


async def _modality(archive: Archive, job: Claimed) -> Modality:
    said = job.content["modality"]
    lists = {"allow": frozenset(said["allow"]), "certificates": tuple(said.get("certificates", ()))}
    return await archive.modalities.with_user(_access(job), Modality(**said | lists))


def _access(job: Claimed) -> Access:
    return Access(job.tenant, "job", SCOPES)


async def run_store(requestor: Requestor, job: Claimed, _folder: Path, progress: Progress) -> Done:
    """Send instances; with `commitment` ask for it when they are sent."""
    archive = requestor.archive
    modality = await _modality(archive, job)
    async with job_items(archive.db, job.tenant, job.id) as items:
        originator = job.content.get("originator")
        sender = Sender(
            requestor, _access(job), modality, await items.kinds(), tuple(originator) if originator else None
        )
        async with sender, aclosing(with_next(items.instances())) as parts:
            async for (number, _, instance), following in parts:
                if instance is None:
                    code, comment = _DELETED, "the instance is not stored any more"
                else:
                    outcome = await sender.send(instance, following[2] if following else None)
                    code, comment = 0 if outcome.sent else outcome.status, outcome.comment
                await items.note(number, code, comment)
                progress(items.fraction)
                if code and not job.content.get("permissive"):
                    raise PeerFailed(f"an instance could not be sent: {comment}", code)
        await items.flush()
        failures = [asdict(each) for each in await items.failures()] if items.failed else []
        result = {"sent": items.over - items.failed, "failed": items.failed, "failures": failures}
    if transaction := job.content.get("commitment"):
        await _committed(requestor, _access(job), modality, transaction)
    return Done(result)


async def run_move(requestor: Requestor, job: Claimed, _folder: Path, progress: Progress) -> Done:
    """Have another application entity send to a third one, or to us."""
    archive, access = requestor.archive, _access(job)
    modality, target = await _modality(archive, job), str(job.content["target"])
    to_us = await archive.modalities.is_own(access, target)
    received: list[str] = []

    async def ask(level: str, keys: Mapping[str, Any]) -> AsyncIterator[SubOperations]:
        identifier = retrieval(level, keys)
        async for said in requestor.move(modality, identifier, move_model(level), target):
            if to_us and said.status == status.SUCCESS:
                received.extend(await _arrived(archive, access, identifier, said.completed))
            yield said

    return await _retrieved(archive, job, ask, received, progress)


async def _arrived(archive: Archive, access: Access, identifier: Dataset, count: int) -> list[str]:
    """Which instances have come to us by a C-MOVE; none where that cannot be known.

    They come on associations of the other side, to any process. All that were sent are stored: where no more than those
    are stored of what was named, these are they.
    """
    found = await archive.selection.identifiers(access, keys_named(identifier), count + 1)
    return found if len(found) == count else []


async def run_get(requestor: Requestor, job: Claimed, _folder: Path, progress: Progress) -> Done:
    """Retrieve from another application entity on the association that we ask for."""
    archive, access = requestor.archive, _access(job)
    modality = await _modality(archive, job)
    received: list[str] = []

    async def take(path: Path) -> int:
        try:
            stored = await _stored(archive, access, path, Provenance("dimse", modality.host, modality.aet))
        except ArchiveError as error:
            return status.of_store(error).code
        received.append(stored.orthanc.instance)
        return status.SUCCESS

    def ask(level: str, keys: Mapping[str, Any]) -> AsyncIterator[SubOperations]:
        return requestor.get(modality, retrieval(level, keys), get_model(level), incoming(classes_of(keys)), take)

    return await _retrieved(archive, job, ask, received, progress)


async def run_commit(requestor: Requestor, job: Claimed, _folder: Path, _progress: Progress) -> Done:
    """Ask for storage commitment; the answer is noted when it comes, see commitment_reports.py."""
    await _committed(requestor, _access(job), await _modality(requestor.archive, job), job.content["transaction"])
    return Done({"transaction": job.content["transaction"]})


async def _committed(requestor: Requestor, access: Access, modality: Modality, transaction: str) -> None:
    archive = requestor.archive
    instances = await archive.asked.commitment_items(access, transaction)
    report = partial(take_report, archive, access.tenant, None)
    await requestor.commit(modality, transaction, instances, report, _REPORT_SECONDS)


async def _retrieved(
    archive: Archive,
    job: Claimed,
    ask: Callable[[str, Mapping[str, Any]], AsyncIterator[SubOperations]],
    received: list[str],
    progress: Progress,
) -> Done:
    """One retrieval after the other; what became of each is noted as JSON, see `_noted`.

    `received`: where `ask` names what has come of the present one.
    """
    total: Counter[str] = Counter(completed=0, failed=0, warning=0)
    async with job_items(archive.db, job.tenant, job.id) as items:
        async for number, content in items.open():
            said, counts = orjson.loads(content), Counter[str]()
            received.clear()
            try:
                await _followed(ask(said["level"], said["keys"]), items, counts, progress)
            except PeerFailed as error:
                permissive = job.content.get("permissive")
                if permissive or error.status is not None:
                    await items.note(number, error.status or status.PROCESSING_FAILURE, _noted(counts, received))
                if not permissive:
                    raise
            else:
                await items.note(number, status.SUCCESS, _noted(counts, received))
            total += counts
    return Done({name: total[name] for name in ("completed", "failed", "warning")})


async def _followed(
    operations: AsyncIterator[SubOperations], items: JobItems, counts: Counter[str], progress: Progress
) -> None:
    """Follow a retrieval to its end, and count. Raises PeerFailed where that is none with which one can be content."""
    said = None
    async for said in operations:
        known = said.remaining + said.completed + said.failed + said.warning
        done = (known - said.remaining) / known if known and said.pending else 0.0
        progress((items.over + done) / max(1, items.total))
    if said is None:
        raise PeerFailed("the peer did not answer")
    counts.update(completed=said.completed, failed=said.failed, warning=said.warning)
    if said.status not in (0, _WARNING):
        raise PeerFailed(f"the retrieval ended with status 0x{said.status:04X}", said.status)


def _noted(counts: Counter[str], received: list[str]) -> str:
    return orjson.dumps({**counts, "received": received}).decode()


def classes_of(keys: Mapping[str, Any]) -> list[str]:
    """The SOP classes that are said to come: SOPClassesInStudy, a list or text with backslashes."""
    said = keys.get("SOPClassesInStudy") or ()
    return [each for each in (said.split("\\") if isinstance(said, str) else map(str, said)) if is_uid(each)]


def incoming(first: Iterable[str] = ()) -> list[Proposal]:
    """Presentation contexts for what a C-GET may bring: these, then the common storage classes, while there is room."""
    common = (str(context.abstract_syntax) for context in StoragePresentationContexts)
    classes = list(dict.fromkeys((*first, *common)))[: MAX_CONTEXTS - 2]
    return [Proposal(each, _INCOMING, as_scp=True) for each in classes]


async def _stored(archive: Archive, access: Access, path: Path, source: Provenance) -> Stored:
    spool = archive.new_spool()
    try:
        with await asyncio.to_thread(path.open, "rb") as file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                await spool.write(chunk)
    except OSError as error:
        spool.discard()
        raise BadRequest("what was received cannot be read again") from error
    except BaseException:
        spool.discard()
        raise
    return await archive.ingest.store(access, await spool.finish(), source)
