"""Orthanc's REST routes, at the root of the server. Errors have Orthanc's own JSON here."""

from api.routes.orthanc import (
    attached,
    changes,
    creation,
    find,
    frames,
    jobs,
    modalities,
    modification,
    queries,
    reconstruction,
    requests,
    resources,
    system,
    tags,
    tools,
    upload,
    worklists,
)
from api.routing import Operation

OPERATIONS: tuple[Operation, ...] = (
    *system.OPERATIONS,
    *upload.OPERATIONS,
    *creation.OPERATIONS,
    *resources.OPERATIONS,
    *find.OPERATIONS,
    *tools.OPERATIONS,
    *tags.OPERATIONS,
    *frames.OPERATIONS,
    *attached.OPERATIONS,
    *changes.OPERATIONS,
    *modalities.OPERATIONS,
    *requests.OPERATIONS,
    *queries.OPERATIONS,
    *modification.OPERATIONS,
    *reconstruction.OPERATIONS,
    *jobs.OPERATIONS,
    *worklists.OPERATIONS,
)
