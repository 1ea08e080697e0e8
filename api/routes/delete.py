"""DELETE of a study, a series or an instance."""

from api.exchange import Exchange
from api.responses import send_bytes
from api.routing import INSTANCE, SERIES, STUDY, Answer, Operation
from dicomweb.errors import BadRequest, NotFound, Unavailable
from dicomweb.uids import checked_uid


async def delete(http: Exchange) -> None:
    """Delete what the path addresses; parents that become empty go with it."""
    uids = {name: checked_uid(value, name) for name, value in http.path.items()}
    await http.archive.lifecycle.delete(http.access, uids["study"], uids.get("series"), uids.get("instance"))
    await send_bytes(http, 204, [])


def _operation(path: str, what: str) -> Operation:
    return Operation(
        "DELETE",
        path,
        "dicom.delete",
        "Delete",
        f"Delete {what}",
        "Parents that become empty are deleted too. The bytes are removed later by the worker, after `tomb_grace_s`.",
        delete,
        (Answer(204, "Deleted."),),
        errors=(BadRequest, NotFound, Unavailable),
    )


OPERATIONS = (
    _operation(STUDY, "a study"),
    _operation(SERIES, "a series"),
    _operation(INSTANCE, "an instance"),
)
