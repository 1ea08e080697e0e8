"""Orthanc's REST routes, at the root of the server. Errors have Orthanc's own JSON here."""

from api.routes.orthanc import (
    attached,
    changes,
    find,
    frames,
    jobs,
    modalities,
    modification,
    queries,
    requests,
    resources,
    system,
    tags,
    titles,
    tools,
    upload,
    worklists,
)
from api.routing import Operation

OPERATIONS: tuple[Operation, ...] = (
    *system.OPERATIONS,
    *upload.OPERATIONS,
    *resources.OPERATIONS,
    *find.OPERATIONS,
    *tools.OPERATIONS,
    *tags.OPERATIONS,
    *frames.OPERATIONS,
    *attached.OPERATIONS,
    *changes.OPERATIONS,
    *modalities.OPERATIONS,
    *titles.OPERATIONS,
    *requests.OPERATIONS,
    *queries.OPERATIONS,
    *modification.OPERATIONS,
    *jobs.OPERATIONS,
    *worklists.OPERATIONS,
)
