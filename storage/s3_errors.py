"""What the S3 client's errors mean to the archive: the one place that translates them.

obstore names a kind of error and quotes the service's answer; the S3 error code in that answer says the rest. The
quotation itself (it holds bucket, key and request id) never reaches a client.
"""

import re
from typing import Final, Literal

from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

from dicomweb.errors import ArchiveError, ObjectMissing, Unavailable

_CODE: Final = re.compile(r"<Code>(\w{1,60})</Code>")
_STATUS: Final = re.compile(r"status code: (\d{3})\b")

_FULL: Final = frozenset({"QuotaExceeded", "InsufficientCapacity", "XMinioStorageFull"})
_REASONS: Final = {
    "NoSuchBucket": "the bucket does not exist",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "InvalidAccessKeyId": "the access key is unknown",
    "ExpiredToken": "the credentials have expired",
    "InvalidToken": "the credentials have expired",
    "AccessDenied": "access is denied",
    "RequestTimeTooSkewed": "the clocks differ too much",
    "PermanentRedirect": "the bucket is in another region",
    "AuthorizationHeaderMalformed": "the region is wrong",
    "QuotaExceeded": "it is full (quota)",
    "InsufficientCapacity": "it is full",
    "XMinioStorageFull": "it is full",
    "SlowDown": "it is overloaded",
    "TooManyRequests": "it is overloaded",
    "ServiceUnavailable": "it is not ready",
}


def code_of(error: BaseException | None) -> str:
    """The S3 error code in the service's answer, or an empty string."""
    found = _CODE.search(str(error)) if error is not None else None
    return found[1] if found else ""


def reason_of(code: str) -> str:
    """An S3 error code in words."""
    return _REASONS.get(code, f"it answers {code}")


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status that the error speaks of, if any."""
    found = _STATUS.search(str(error)) if error is not None else None
    return int(found[1]) if found else None


def translate(error: BaseException) -> ArchiveError:
    """ObjectMissing for an object that is not there, Unavailable with the reason for all else."""
    code = code_of(error)
    if isinstance(error, FileNotFoundError) and code != "NoSuchBucket":
        return ObjectMissing("the object store does not have the object")
    if code in _REASONS:
        full: Literal["", "full"] = "full" if code in _FULL else ""
        return Unavailable(f"the object store refuses the request: {_REASONS[code]}", reason=full)
    status = status_of(error)
    if status in {401, 403}:  # the answer to a HEAD has no body that would say more
        return Unavailable("the object store refuses the request: the keys are wrong or access is denied")
    if status == 507:
        return Unavailable("the object store refuses the request: it is full", reason="full")
    if status is not None:
        return Unavailable(f"the object store failed with status {status}{f' ({code})' if code else ''}")
    text = str(error)
    if "kind: Timeout" in text or "TimedOut" in text:
        return Unavailable("the object store did not answer in time")
    if "credentials" in text:
        return Unavailable("there are no credentials for the object store")
    return Unavailable("the object store cannot be reached")


def already_there(error: BaseException | None) -> bool:
    """If-None-Match failed: the key is taken."""
    return isinstance(error, AlreadyExistsError | PreconditionError)


def not_supported(error: BaseException | None) -> bool:
    """The service does not know If-None-Match."""
    return isinstance(error, NotSupportedError) or code_of(error) == "NotImplemented" or status_of(error) == 501


def beyond_end(error: BaseException) -> bool:
    """The range begins behind the object's end."""
    return code_of(error) == "InvalidRange" or status_of(error) == 416
