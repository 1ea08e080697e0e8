"""What we ask of other application entities. The event loop never waits for them: each association has a thread."""

import asyncio
import ssl
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.dsutils import decode, encode

from dicomweb.errors import BadRequest, PeerFailed, TooLarge, Unavailable
from dicomweb.media import EXPLICIT_LE, IMPLICIT_LE
from dimse_bridge import status
from dimse_bridge.contexts import COMMITMENT, VERIFICATION
from dimse_bridge.requestor import Answers, Call, Link, Proposal, User, status_said
from dimse_bridge.tls import Certificates
from dimse_bridge.traffic import OwnTraffic
from storage.archive import Archive
from storage.counts import Key
from storage.modalities import Modality

T = TypeVar("T")

COMMITMENT_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
STUDY_ROOT: Final = "1.2.840.10008.5.1.4.1.2.2."
PATIENT_ROOT: Final = "1.2.840.10008.5.1.4.1.2.1."
FIND, MOVE, GET = "1", "2", "3"  # the last component of the SOP classes of both

MESSAGES: Final = (EXPLICIT_LE, IMPLICIT_LE)
_ANSWER_BYTES: Final = 8 << 20
_ANSWERS_BYTES: Final = 64 << 20
# Answers that a thread collects, and seconds after which it hands over what there is.
_BATCH: Final = 100
_BATCH_SECONDS: Final = 0.1
# Answers that are read after a C-CANCEL before the association is cut.
_AFTER_CANCEL: Final = 10.0  # seconds in which a peer has to hear a C-CANCEL, however much it had sent already


@dataclass(frozen=True, slots=True)
class SubOperations:
    """How far a C-MOVE or a C-GET is (PS3.7 9.1.4.1); `failed_uids` only at the end."""

    remaining: int
    completed: int
    failed: int
    warning: int
    status: int
    failed_uids: tuple[str, ...] = ()

    @property
    def pending(self) -> bool:
        """Whether more responses come."""
        return self.status in status.NOT_FINAL


class Requestor:
    """Asks other application entities on behalf of an archive. Close it once."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.traffic = OwnTraffic()
        self._settings = archive.settings
        self._pool = ThreadPoolExecutor(self._settings.dimse_requests, thread_name_prefix="dimse-scu")
        self._slots = asyncio.Semaphore(self._settings.dimse_requests)
        self._waiting = 0
        self._links: set[Link] = set()
        self._certificates: Certificates | None = None

    async def close(self) -> None:
        """Cut what is open."""
        for link in list(self._links):
            link.cut()
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    def counters(self) -> dict[Key, float]:
        """Totals for the metrics: of the archive, and of what we asked others."""
        return {**self.archive.counters(), **self.traffic.totals()}

    async def echo(self, modality: Modality, *, find: bool = False) -> None:
        """C-ECHO; with `find` a C-FIND that matches nothing, too. Raises PeerFailed, Unavailable."""
        model = STUDY_ROOT + FIND
        proposals = [Proposal(VERIFICATION, MESSAGES)] + ([Proposal(model, MESSAGES)] if find else [])
        async with self.link(modality, proposals) as link:
            await self.run(link, link.echo)
        if find:
            nothing = Dataset()
            nothing.QueryRetrieveLevel = "STUDY"
            nothing.StudyInstanceUID = "1.2.3.4.5.6.7.8.9.0"
            _ = [each async for each in self.find(modality, nothing, model, limit=1)]

    async def find(
        self, modality: Modality, identifier: Dataset, model: str, *, limit: int
    ) -> AsyncGenerator[Dataset, None]:
        """C-FIND (PS3.4 C.4.1, K.4.1): the answers as they come, at most `limit`; then it is cancelled.

        Raises PeerFailed, Unavailable.
        """
        async with self.link(modality, [Proposal(model, MESSAGES)]) as link:
            answers = link.find(identifier, model)
            count = 0
            while batch := await self.run(link, partial(_batch, answers)):
                for said, found in batch:
                    if said.Status not in status.NOT_FINAL:
                        if said.Status not in (status.SUCCESS, status.CANCELLED):
                            raise PeerFailed(*status_said(said))
                        return
                    if found is not None:
                        yield found
                        count += 1
                    if count == limit:
                        await self.run(link, partial(_cancel, answers))
                        return

    async def find_packed(self, modality: Modality, identifier: Dataset, model: str, *, limit: int) -> list[bytes]:
        """All answers to a C-FIND in Explicit VR Little Endian, as they came. Raises as `find`, and TooLarge."""
        found: list[bytes] = []
        size = 0
        async for each in self.find(modality, identifier, model, limit=limit):
            found.append(packed(each))
            size += len(found[-1])
            if size > _ANSWERS_BYTES:
                raise TooLarge("the answers are too large to be kept; ask for less")
        return found

    async def move(
        self, modality: Modality, identifier: Dataset, model: str, destination: str
    ) -> AsyncGenerator[SubOperations, None]:
        """C-MOVE (PS3.4 C.4.2) to the AE title `destination`: how far it is, and at last how it ended.

        Raises PeerFailed, Unavailable.
        """
        async with self.link(modality, [Proposal(model, MESSAGES)]) as link:
            async for each in self._operations(link, link.move(identifier, destination, model)):
                yield each

    async def get(
        self, modality: Modality, identifier: Dataset, model: str, proposals: Sequence[Proposal], take: "Take"
    ) -> AsyncGenerator[SubOperations, None]:
        """C-GET (PS3.4 C.4.3): each instance that comes is a file that `take` gets, and answers with a status.

        `proposals`: for what may come, with the role of the SCP. Raises PeerFailed, Unavailable.
        """
        loop = asyncio.get_running_loop()

        def store(event: evt.Event) -> int:
            work = asyncio.run_coroutine_threadsafe(take(event.dataset_path), loop)
            return work.result(self._settings.intent_lease_s)

        handlers = [(evt.EVT_C_STORE, store)]
        both = [Proposal(model, MESSAGES), *proposals]
        async with self.link(modality, both, handlers, self._settings.max_instance) as link:
            async for each in self._operations(link, link.get(identifier, model)):
                yield each

    async def _operations(self, link: Link, answers: Answers) -> AsyncGenerator[SubOperations, None]:
        while (found := await self.run(link, answers.next)) is not None:
            remaining, completed, failed, warning = (
                int(found[0].get(f"NumberOf{which}Suboperations", 0) or 0)
                for which in ("Remaining", "Completed", "Failed", "Warning")
            )
            said = SubOperations(remaining, completed, failed, warning, found[0].Status, _uids(found[1]))
            yield said
            if not said.pending:
                return

    async def commit(
        self, modality: Modality, transaction: str, instances: Sequence[tuple[str, str]], report: "Report", wait: float
    ) -> None:
        """Ask for storage commitment of instances (SOP class, SOP instance): N-ACTION (PS3.4 J.3.2).

        The answer comes as an N-EVENT-REPORT on an association of the peer's; one that comes on ours within `wait`
        seconds goes to `report`. Raises PeerFailed, Unavailable.
        """
        loop = asyncio.get_running_loop()
        answered, noted = asyncio.Event(), threading.Event()

        def event_report(event: evt.Event) -> tuple[int, None]:
            asyncio.run_coroutine_threadsafe(report(event.event_information), loop).result(self._settings.dimse_timeout)
            noted.set()
            return 0, None

        def sent(_event: evt.Event) -> None:
            if noted.is_set():  # the response has gone out: the association may be released
                loop.call_soon_threadsafe(answered.set)

        dataset = Dataset()
        dataset.TransactionUID = transaction
        dataset.ReferencedSOPSequence = [_reference(*each) for each in instances]
        handlers: list[tuple[Any, Any]] = [(evt.EVT_N_EVENT_REPORT, event_report), (evt.EVT_DATA_SENT, sent)]
        async with self.link(modality, [Proposal(COMMITMENT, MESSAGES)], handlers) as link:
            await self.run(link, partial(link.action, dataset, 1, COMMITMENT, COMMITMENT_INSTANCE))
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await answered.wait()

    # -- associations

    @asynccontextmanager
    async def link(
        self,
        modality: Modality,
        proposals: Sequence[Proposal],
        handlers: Sequence[tuple[Any, Callable[..., Any]]] = (),
        message_limit: int = _ANSWER_BYTES,
    ) -> AsyncIterator[Link]:
        """An association for the time of a `with` block. Raises PeerFailed, Unavailable."""
        if self._waiting >= 8 * self._settings.dimse_requests:
            raise Unavailable("too many requests to other application entities wait already")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            tls = await asyncio.to_thread(self._tls) if modality.tls else None
            make = partial(
                Link,
                self._call(modality, tls),
                proposals,
                self.traffic,
                message_limit=message_limit + _ANSWER_BYTES,
                handlers=handlers,
            )
            link = await self._in_thread(make, None)
            self._links.add(link)
            try:
                yield link
            except BaseException:
                link.cut()
                raise
            else:
                await self.run(link, link.release)
            finally:
                self._links.discard(link)
        finally:
            self._slots.release()

    def _tls(self) -> ssl.SSLContext:
        """For associations by TLS, with the files as they are now. Blocks. Raises PeerFailed where it is not set up."""
        try:
            if self._certificates is None:
                self._certificates = Certificates.of_requestor(self._settings)
            self._certificates.refresh()
        except Unavailable as error:
            raise PeerFailed("the files for TLS cannot be read: see the settings dimse_client_*") from error
        return self._certificates.context

    def _call(self, modality: Modality, tls: ssl.SSLContext | None) -> Call:
        """How to reach a modality. Raises PeerFailed where it has no address, or its secret cannot be decrypted."""
        if not modality.can_be_called:
            raise PeerFailed("the application entity has no address")
        secret = self.archive.modalities.secret_of(modality)
        user = None if modality.username is None and secret is None else User(modality.username, secret)
        return Call(
            modality.host,
            modality.port,
            modality.aet,
            modality.local_aet or self._settings.aet,
            modality.timeout or self._settings.dimse_timeout,
            tls,
            user,
        )

    async def run(self, link: Link, work: Callable[[], T]) -> T:
        """Work of a link in its thread; when nobody waits for it any more, the link is cut."""
        return await self._in_thread(work, link)

    async def _in_thread(self, work: Callable[[], T], link: Link | None) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if link is None:
                future.add_done_callback(_cut_result)
            else:
                link.cut()
                future.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise


Take = Callable[[Path], Coroutine[Any, Any, int]]
Report = Callable[[Dataset], Coroutine[Any, Any, None]]


def packed(dataset: Dataset) -> bytes:
    """A data set in Explicit VR Little Endian, its values as they came. Raises BadRequest."""
    made = encode(dataset, False, True)
    if made is None:
        raise BadRequest("the data set cannot be encoded")
    return made


def unpacked(data: bytes) -> Dataset:
    """The same again."""
    return decode(BytesIO(data), False, True)


def _cut_result(done: "asyncio.Future[Any]") -> None:
    """An association that was made for nobody."""
    if not done.cancelled() and done.exception() is None:
        done.result().cut()


def _batch(answers: Answers) -> list[tuple[Dataset, Dataset | None]]:
    found: list[tuple[Dataset, Dataset | None]] = []
    end = monotonic() + _BATCH_SECONDS
    while len(found) < _BATCH and (answer := answers.next()) is not None:
        found.append(answer)
        if answer[0].Status not in status.NOT_FINAL or monotonic() > end:
            break
    return found


def _cancel(answers: Answers) -> None:
    """C-CANCEL, and read what comes until the peer has heard it."""
    answers.cancel()
    end = monotonic() + _AFTER_CANCEL
    while monotonic() < end:
        answer = answers.next()
        if answer is None or answer[0].Status not in status.NOT_FINAL:
            return
    raise PeerFailed("the peer does not stop to answer")


def _uids(identifier: Dataset | None) -> tuple[str, ...]:
    found = None if identifier is None else identifier.get("FailedSOPInstanceUIDList")
    return () if not found else (str(found),) if isinstance(found, str) else tuple(map(str, found))


def _reference(sop_class: str, sop_instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = sop_instance
    return item
