"""Modality performed procedure steps (PS3.4 annex F): N-CREATE and N-SET (F.7), N-GET of the Retrieve class (F.8)."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from pynetdicom.dimse_primitives import N_CREATE, N_GET, N_SET, DIMSEPrimitive

from dicomweb import performed_steps
from dicomweb.errors import ArchiveError
from dicomweb.identifier import IdentifierWriter
from dicomweb.part10 import ScanLimits, dataset_json
from dicomweb.repertoire import ASCII, UTF8
from dicomweb.ups_model import CHARACTER_SET, Dataset, dataset_of
from dicomweb.worklist_model import INVALID_VALUE
from dimse_bridge import status
from dimse_bridge.logs import log_event
from dimse_bridge.service import Entry, Exchange

MPPS: Final = performed_steps.MPPS
MPPS_RETRIEVE: Final = "1.2.840.10008.3.1.2.3.4"

_LIMITS: Final = ScanLimits(max_depth=16, max_elements=50_000, bulk_threshold=1 << 16)
_CHARACTER_SETS: Final = (ASCII, UTF8)
_NOT_UPDATED: Final = 0xA710  # the Error ID for a step that is finished (PS3.4 F.7.2.2.4)
_NOT_ALL: Final = 0x0001  # requested optional attributes are not supported (PS3.4 F.8.2.1.4)


def _answered(serve: Callable[[Exchange, Dataset], Awaitable[None]]) -> Callable[[Exchange], Awaitable[None]]:
    """A service that says what was wrong as PS3.7 C.5 has it: the attribute's name, and an invalid value itself."""

    async def service(exchange: Exchange) -> None:
        given: Dataset = {}
        try:
            given = _attributes(exchange)
            await serve(exchange, given)
        except ArchiveError as error:
            failed = status.of_request(error, exchange.request)
            log_event(
                "step-refused", peer=exchange.association.peer, status=failed.code, reason=status.comment(error.message)
            )
            invalid = None
            if failed.code == INVALID_VALUE and error.attribute in given:
                writer = IdentifierWriter(exchange.context.transfer_syntax)
                invalid = writer.write({error.attribute: given[error.attribute]}, _CHARACTER_SETS)
            finished = error.message == performed_steps.MAY_NO_LONGER_BE_UPDATED
            more: dict[str, Any] = {"ErrorID": _NOT_UPDATED} if finished else {}
            await exchange.respond(failed.code, comment=failed.comment, identifier=invalid, **more)

    return service


def _attributes(exchange: Exchange) -> Dataset:
    """The data set of a request in the DICOM JSON Model."""
    if not exchange.identifier:
        return {}
    return dataset_of(orjson.loads(dataset_json(exchange.identifier, exchange.context.transfer_syntax, _LIMITS)))


@_answered
async def create(exchange: Exchange, given: Dataset) -> None:
    """N-CREATE: a modality begins. The scheduled steps that it names are STARTED."""
    request, association = exchange.request, exchange.association
    assert isinstance(request, N_CREATE)
    access = association.access.with_scope("worklist.write")  # whoever has the permission `mpps`
    uid = await association.archive.performed_steps.create(access, given, str(request.AffectedSOPInstanceUID or ""))
    await exchange.respond(status.SUCCESS, AffectedSOPInstanceUID=uid)


@_answered
async def update(exchange: Exchange, given: Dataset) -> None:
    """N-SET: what has been done so far, and the end of it."""
    request, association = exchange.request, exchange.association
    assert isinstance(request, N_SET)
    access = association.access.with_scope("worklist.write")
    await association.archive.performed_steps.update(access, str(request.RequestedSOPInstanceUID or ""), given)
    await exchange.respond(status.SUCCESS)


@_answered
async def retrieve(exchange: Exchange, _given: Dataset) -> None:
    """N-GET: the attributes that are asked for, all when none is named."""
    request, association = exchange.request, exchange.association
    assert isinstance(request, N_GET)
    access = association.access.with_scope("worklist.read")
    found = await association.archive.performed_steps.get(access, str(request.RequestedSOPInstanceUID or ""))
    asked = request.AttributeIdentifierList or ()
    wanted = [f"{int(tag):08X}" for tag in ([asked] if isinstance(asked, int) else asked)]
    answer = {tag: found[tag] for tag in wanted or found if tag in found and tag != CHARACTER_SET}
    data = IdentifierWriter(exchange.context.transfer_syntax).write(answer, _CHARACTER_SETS)
    complete = all(tag in found for tag in wanted)
    await exchange.respond(status.SUCCESS if complete else _NOT_ALL, identifier=data)


ENTRIES: Final[dict[tuple[type[DIMSEPrimitive], str], Entry]] = {
    (N_CREATE, MPPS): Entry(create, "mpps"),
    (N_SET, MPPS): Entry(update, "mpps"),
    (N_GET, MPPS_RETRIEVE): Entry(retrieve, "mpps"),
}
