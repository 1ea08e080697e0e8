"""A Store transaction while its body arrives: parts are stored while later ones are still being read."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

from api.exchange import Exchange
from api.identity import identity_of, readable
from api.logs import log_crash
from api.uploads import Body, BodyReader, Upload, part_limits
from dicomweb.errors import ArchiveError, Unavailable
from dicomweb.multipart import Parser, PartBegin, PartData
from dicomweb.part10 import Identifiers
from dicomweb.store_answer import read_content_digest
from dicomweb.stow import COERCED, ELEMENTS_DISCARDED, PROCESSING_FAILURE, Outcome, failed, part_is_dicom
from storage.ingest import Stored
from storage.provenance import Provenance
from storage.spool import Spooled

# Parts of one request that are stored at the same time; the reader waits beyond that, so that a fast sender is slowed
# down.
_IN_FLIGHT = 8
_CANNOT_UNDERSTAND = 0xC000


class StoreTransaction:
    """Collects the outcome of every part in the order of the parts; one bad part never touches its neighbours."""

    def __init__(self, http: Exchange, *, expect_study: str | None = None) -> None:
        self._http = http
        self._source = Provenance("stow", http.peer)
        self._expect_study = expect_study
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self._results: list[asyncio.Task[Outcome] | Outcome] = []
        self._unavailable: list[Unavailable] = []
        self._upload: Upload | None = None

    async def read_single(self, body: BodyReader) -> list[Outcome]:
        """The whole body is one instance."""
        await self._begin_part({})
        while (chunk := await self._read(body)) is not None:
            await self._write(chunk)
        await self._end_part()
        return await self._finish()

    async def read_multipart(self, body: BodyReader, boundary: bytes) -> list[Outcome]:
        """Every part is one instance. A body that breaks off stores its complete parts and raises, saying so."""
        parser = Parser(boundary, part_limits(self._http))
        try:
            while (chunk := await body.read()) is not None:
                for event in parser.feed(chunk):
                    if isinstance(event, PartData):
                        await self._write(event.data)
                    elif isinstance(event, PartBegin):
                        await self._begin_part(event.headers)
                    else:
                        await self._end_part()
            parser.close()
        except ArchiveError as error:
            raise await self._broken_off(error) from None
        except BaseException:
            await self._abandon()
            raise
        return await self._finish()

    async def _read(self, body: Body) -> bytes | None:
        try:
            return await body.read()
        except BaseException:
            await self._abandon()
            raise

    async def _begin_part(self, headers: dict[str, str]) -> None:
        if not part_is_dicom(headers):
            comment = "the part is not of type application/dicom"
            self._results.append(Outcome(failure_reason=_CANNOT_UNDERSTAND, comment=comment))
            return
        self._upload = Upload(self._http, digest=read_content_digest(headers.get("content-digest", "")))

    async def _write(self, data: bytes | memoryview) -> None:
        upload = self._upload
        if upload is None:
            return  # the rest of a part that was refused
        try:
            await upload.spool.write(data)
        except ArchiveError as error:
            upload.drop()
            self._upload = None
            self._results.append(self._not_stored(error))

    async def _end_part(self) -> None:
        upload, self._upload = self._upload, None
        if upload is None:
            return
        try:
            spooled = await upload.finish()
            await self._slots.acquire()
        except ArchiveError as error:
            self._results.append(self._not_stored(error))
            return
        self._results.append(asyncio.ensure_future(self._store(spooled, upload)))

    async def _store(self, spooled: Spooled, upload: Upload) -> Outcome:
        http = self._http
        ingest = http.archive.ingest
        try:
            with readable(spooled) as buffer:
                try:
                    stored = await ingest.store(http.access, spooled, self._source, expect_study=self._expect_study)
                except ArchiveError as error:
                    return self._not_stored(error, await identity_of(buffer))
        except Exception as error:  # noqa: BLE001 - whatever one part does, the others have their own outcome
            log_crash(http.request_id, http.operation.path, error)
            return Outcome(failure_reason=PROCESSING_FAILURE, comment="the instance could not be processed")
        finally:
            upload.memory.release()
            self._slots.release()
        outcome = _succeeded(stored)
        if upload.digest is not None:
            outcome = replace(outcome, sha256=upload.digest if stored.status != "kept" else b"")
        return outcome

    def _not_stored(self, error: ArchiveError, who: Identifiers | None = None) -> Outcome:
        if isinstance(error, Unavailable):
            self._unavailable.append(error)
        if who is None:
            return failed(error)
        return failed(error, who.sop_class, who.sop_instance, who.study, who.series)

    async def _finish(self) -> list[Outcome]:
        """All outcomes.

        When the archive itself is down, and nothing was stored, that is the answer (503): a retry is worthwhile.
        """
        outcomes = [await result if isinstance(result, asyncio.Task) else result for result in self._results]
        if outcomes and len(self._unavailable) == len(outcomes):
            raise self._unavailable[0]
        return outcomes

    async def _broken_off(self, error: ArchiveError) -> ArchiveError:
        """The same error, saying how many of the instances before it are stored."""
        await self._abandon()
        results = [result.result() for result in self._results if isinstance(result, asyncio.Task)]
        stored = sum(outcome.failure_reason is None for outcome in results)
        error.message = f"{error.message}; {stored} instances that came before are stored"
        return error

    async def _abandon(self) -> None:
        """Drop the part that is incomplete, wait for those that are on their way."""
        if self._upload is not None:
            self._upload.drop()
            self._upload = None
        pending: list[Awaitable[Outcome]] = [result for result in self._results if isinstance(result, asyncio.Task)]
        await asyncio.gather(*pending, return_exceptions=True)


def _succeeded(stored: Stored) -> Outcome:
    warnings = stored.warnings
    if stored.other_patient:
        warnings = ("the study has another PatientID, which search answers show", *warnings)
    warning = (COERCED if stored.other_patient else ELEMENTS_DISCARDED) if warnings else None
    comment = "; ".join(warnings) or None
    return Outcome(stored.sop_class, stored.sop_instance, stored.study, stored.series, None, warning, comment)
