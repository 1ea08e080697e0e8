"""Domain errors as DIMSE status codes: the one table of this side (HTTP has its own in `api`)."""

from dataclasses import dataclass
from typing import Final

from pynetdicom.dimse_primitives import DIMSEPrimitive

from dicomweb.errors import (
    ArchiveError,
    BadDicom,
    BadRequest,
    Conflict,
    CorruptObject,
    Forbidden,
    IdentityMismatch,
    NotAcceptable,
    NotFound,
    TooLarge,
    Unavailable,
    WorkitemRefused,
)

SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
DUPLICATE_INSTANCE: Final = 0x0111
NO_SUCH_INSTANCE: Final = 0x0112
INVALID_ARGUMENT: Final = 0x0115
CLASS_INSTANCE_CONFLICT: Final = 0x0119
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
NOT_AUTHORISED: Final = 0x0124
NO_SUCH_ACTION: Final = 0x0123
DUPLICATE_TRANSACTION: Final = 0x0131
UNRECOGNISED_OPERATION: Final = 0x0211
RESOURCE_LIMITATION: Final = 0x0213
OUT_OF_RESOURCES: Final = 0xA700
CANNOT_COUNT: Final = 0xA701  # out of resources: the number of matches is not known
SUB_OPERATIONS_FAILED: Final = 0xA702
UNKNOWN_DESTINATION: Final = 0xA801
MISMATCH: Final = 0xA900
SUB_OPERATIONS_WARNING: Final = 0xB000
CANNOT_UNDERSTAND: Final = 0xC000
DUPLICATE: Final = 0xC111  # 0x0111 belongs to N-CREATE; senders of C-STORE handle the Cxxx range (PS3.4 B.2.3)
CANCELLED: Final = 0xFE00
PENDING: Final = 0xFF00
PENDING_PARTIAL: Final = 0xFF01  # an optional key was not supported for matching
NOT_FINAL: Final = frozenset((PENDING, PENDING_PARTIAL))

MAX_COMMENT = 64  # Error Comment (0000,0902) is an LO

# PS3.4 table B.2-1 (C-STORE), first match wins.
_STORE: Final[tuple[tuple[type[ArchiveError], int], ...]] = (
    (Conflict, DUPLICATE),
    (IdentityMismatch, MISMATCH),
    (BadDicom, CANNOT_UNDERSTAND),
    (TooLarge, OUT_OF_RESOURCES),
    (Unavailable, OUT_OF_RESOURCES),
    (Forbidden, NOT_AUTHORISED),
)
# PS3.4 table C.4-1 (C-FIND).
_FIND: Final[tuple[tuple[type[ArchiveError], int], ...]] = (
    (IdentityMismatch, MISMATCH),
    (BadRequest, CANNOT_UNDERSTAND),
    (BadDicom, CANNOT_UNDERSTAND),
    (NotFound, SUCCESS),
    (TooLarge, OUT_OF_RESOURCES),
    (Unavailable, OUT_OF_RESOURCES),
    (CorruptObject, OUT_OF_RESOURCES),
    (Forbidden, NOT_AUTHORISED),
)


@dataclass(frozen=True, slots=True)
class Status:
    """What a DIMSE response says: the code and, for failures, why in at most 64 characters."""

    code: int
    comment: str = ""


def comment(text: str) -> str:
    """`text` as an Error Comment: printable ASCII, no backslash (it separates values), 64 characters at most."""
    plain = "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in text)
    return plain if len(plain) <= MAX_COMMENT else plain[: MAX_COMMENT - 3] + "..."


# PS3.7 10.1 and annex C: the N-services.
_NORMALISED: Final[tuple[tuple[type[ArchiveError], int], ...]] = (
    (Conflict, DUPLICATE_INSTANCE),
    (IdentityMismatch, CLASS_INSTANCE_CONFLICT),
    (NotFound, NO_SUCH_INSTANCE),
    (BadRequest, INVALID_ARGUMENT),
    (BadDicom, INVALID_ARGUMENT),
    (TooLarge, RESOURCE_LIMITATION),
    (Unavailable, RESOURCE_LIMITATION),
    (Forbidden, NOT_AUTHORISED),
)


def of_store(error: BaseException) -> Status:
    """The answer to a C-STORE that raised `error`; what is no domain error says nothing of itself."""
    return _of(error, _STORE)


def of_unsent(error: ArchiveError) -> int:
    """The status of a C-STORE that was never sent, as the instance could not be opened in what the peer takes."""
    return SOP_CLASS_NOT_SUPPORTED if isinstance(error, NotAcceptable) else PROCESSING_FAILURE


def of_find(error: BaseException) -> Status:
    """The answer to a C-FIND that raised `error`."""
    return _of(error, _FIND)


def of_request(error: BaseException, request: DIMSEPrimitive) -> Status:
    """The answer to a request other than C-STORE that raised `error`; a rule of a procedure step brings its own."""
    if isinstance(error, WorkitemRefused):
        return Status(error.failure_reason or PROCESSING_FAILURE, comment(error.message))
    return _of(error, _FIND if type(request).__name__.startswith("C_") else _NORMALISED)


def _of(error: BaseException, table: tuple[tuple[type[ArchiveError], int], ...]) -> Status:
    for kind, code in table:
        if isinstance(error, kind):
            return Status(code, comment(error.message))
    return Status(PROCESSING_FAILURE, "internal error")
