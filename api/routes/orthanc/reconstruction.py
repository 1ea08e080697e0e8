"""Reconstruct: the index of resources, or of everything, is made anew from the stored files."""

import functools
from typing import Any, Final

from api.exchange import Exchange
from api.routes.orthanc.dialect import EMPTY, SUBMITTED, field, finished, object_of, route, send_text
from api.routing import Operation
from dicomweb.tags import Level
from storage.reconstruction import RECONSTRUCT, place_of, whole
from storage.resource import PLURAL, Resource

_ONLY: Final = "LimitToThisLevelMainDicomTags"


async def reconstruct(http: Exchange, level: Level | None) -> None:
    """Of one resource, or of everything."""
    given = await object_of(http)
    if level is None:
        content, studies = await whole(http.archive, http.access)
    else:
        content, studies = await place_of(http.archive, http.access, Resource.of(level, http.path["id"]))
    content |= {
        "only_this_level": level is not None and field(given, _ONLY, bool, False),
        "files": field(given, "ReconstructFiles", bool, False),
        "said": {} if level is None else {"ID": http.path["id"], "Type": str(level).capitalize()},
    }
    if await finished(http, RECONSTRUCT, content, studies, given) is not None:
        await send_text(http, "")


_OPTIONS: Final[dict[str, Any]] = {"ReconstructFiles": False, "Asynchronous": False}
_ABOUT: Final = (
    "Rows and metadata are made anew from the stored files, whose digests are checked; labels, metadata and "
    "attachments stay. With `ReconstructFiles` the rules of the setting `transcode` are applied to the files again, in "
    "the background. Synchronous unless `Asynchronous` is true; then the answer names the job."
)
_LIMITED: Final = f" With `{_ONLY}`, only the rows of this level, which one instance describes."


def _of_level(level: Level) -> Operation:
    return route(
        "POST", f"/{PLURAL[level]}/{{id}}/reconstruct", "dicom.write", (f"Reconstruct a {level}", _ABOUT + _LIMITED),
        functools.partial(reconstruct, level=level), (EMPTY, SUBMITTED), _OPTIONS | {_ONLY: False},
    )  # fmt: skip


OPERATIONS = (
    *(_of_level(level) for level in Level),
    route("POST", "/tools/reconstruct", "system.admin", ("Reconstruct everything", _ABOUT),
          functools.partial(reconstruct, level=None), (EMPTY, SUBMITTED), _OPTIONS),
)  # fmt: skip
