"""Domain errors, mapped to HTTP in `api/errors.py` and to DIMSE in `dimse_bridge/status.py`.

A message says what was wrong and names the attribute or parameter; it never repeats patient data.
"""

from typing import ClassVar, Literal


class ArchiveError(Exception):
    """Root of the tree. `failure_reason` is a PS3.4/PS3.18 status code (for example 0xC000) where one applies."""

    slug: ClassVar[str] = "error"
    default_reason: ClassVar[int | None] = None

    def __init__(self, message: str, *, attribute: str | None = None, failure_reason: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.attribute = attribute
        self.failure_reason = self.default_reason if failure_reason is None else failure_reason


class NotFound(ArchiveError):
    """The addressed resource does not exist, or the caller may not see it."""

    slug = "not-found"


class ObjectMissing(NotFound):
    """An index row points at an object that the store does not have."""

    slug = "object-missing"


class BadRequest(ArchiveError):
    """The message itself is malformed: multipart framing, header syntax, body length."""

    slug = "bad-request"


class BadQuery(BadRequest):
    """A query parameter is unknown, malformed or out of range."""

    slug = "bad-query"


class BadJson(BadRequest):
    """A body that is to be JSON is none."""

    slug = "bad-json"


class OverridesParent(BadRequest):
    """A new instance would have another value than what it belongs to, or identifiers that are made anew."""

    slug = "overrides-parent"


class NotContent(BadRequest):
    """Pixels are given as an attribute of a new instance, not as its content."""

    slug = "not-content"


class NoContent(BadRequest):
    """One of several new instances has no content."""

    slug = "no-content"


class BadDataUri(BadRequest):
    """The content of a new instance is no data URI."""

    slug = "bad-data-uri"


class NoParent(BadRequest):
    """What a new instance is to belong to does not exist."""

    slug = "no-parent"


class ParentIsInstance(BadRequest):
    """What a new instance is to belong to is an instance."""

    slug = "parent-is-instance"


class BadDicom(ArchiveError):
    """The bytes are not a DICOM file that can be stored (PS3.4 GG: 0xC000, cannot understand)."""

    slug = "bad-dicom"
    default_reason = 0xC000


class IdentityMismatch(ArchiveError):
    """The dataset's UIDs differ from where it was sent to, or from what is stored (0xA900)."""

    slug = "identity-mismatch"
    default_reason = 0xA900


class Conflict(ArchiveError):
    """The SOP Instance UID is stored already with other bytes (0x0111)."""

    slug = "conflict"
    default_reason = 0x0111


class TransactionInUse(ArchiveError):
    """The Transaction UID of a request for storage commitment is that of an earlier one (PS3.4 J.3.2: 0x0131)."""

    slug = "transaction-in-use"
    default_reason = 0x0131


class RevisionConflict(ArchiveError):
    """Metadata or an attachment were changed since the writer saw them, or the writer does not say what they saw."""

    slug = "revision-conflict"


class NotAcceptable(ArchiveError):
    """Nothing that the client accepts can be served; the message names what is available."""

    slug = "not-acceptable"


class UnsupportedMediaType(ArchiveError):
    """The request body is of a type that this resource does not take."""

    slug = "unsupported-media-type"


class RangeNotSatisfiable(ArchiveError):
    """The Range header lies outside the representation; `size` is its length in bytes."""

    slug = "range-not-satisfiable"

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message)
        self.size = size


class TooLarge(ArchiveError):
    """A limit was exceeded: bytes, parts, elements, depth, frames (0xA700, out of resources)."""

    slug = "too-large"
    default_reason = 0xA700


class Forbidden(ArchiveError):
    """The caller lacks the scope that the operation declares (0x0124, not authorised)."""

    slug = "forbidden"
    default_reason = 0x0124


class Unavailable(ArchiveError):
    """The database or the object store is down, slow or (`reason`) full; a retry may succeed (0xA700)."""

    slug = "unavailable"
    default_reason = 0xA700

    def __init__(self, message: str, *, reason: Literal["", "full"] = "") -> None:
        super().__init__(message)
        self.reason = reason


class CorruptObject(ArchiveError):
    """Stored bytes differ from what the index says; nothing of them is served."""

    slug = "corrupt-object"
    default_reason = 0x0110


class BadPixels(ArchiveError):
    """The stored pixel data cannot be decoded as their attributes describe them, or not be shown as an image."""

    slug = "bad-pixels"
    default_reason = 0xC000


class Gone(NotFound):
    """The addressed resource did exist and was removed."""

    slug = "gone"


class WorkitemRefused(ArchiveError):
    """A request breaks the rules of a Unified Procedure Step (PS3.4 CC.2).

    `warning` is the text that the standard fixes for the answer's Warning header, without code and service, or "".
    """

    slug = "workitem-refused"

    def __init__(
        self, message: str, *, warning: str = "", attribute: str | None = None, failure_reason: int | None = None
    ) -> None:
        super().__init__(message, attribute=attribute, failure_reason=failure_reason)
        self.warning = warning


class WorkitemConflict(WorkitemRefused):
    """The request does not fit the state in which the Unified Procedure Step is now."""

    slug = "workitem-conflict"


class PeerFailed(ArchiveError):
    """Another application entity cannot be reached, or did not do what it was asked; `status` is what it answered."""

    slug = "peer-failed"

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
