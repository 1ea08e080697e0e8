"""Orthanc's REST routes, at the root of the server. Errors have Orthanc's own JSON here."""

from api.routes.orthanc import jobs, modalities, queries, requests, system, worklists
from api.routing import Operation

OPERATIONS: tuple[Operation, ...] = (
    *system.OPERATIONS,
    *modalities.OPERATIONS,
    *requests.OPERATIONS,
    *queries.OPERATIONS,
    *jobs.OPERATIONS,
    *worklists.OPERATIONS,
)
