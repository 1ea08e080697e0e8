"""What plug-ins of Orthanc tell of their background work, as far as it is true here, and what is refused."""

import functools
from typing import Any, Final, Literal

from api.exchange import Exchange
from api.routes.orthanc.addressing import NO_STORE
from api.routes.orthanc.dialect import EMPTY, route, send_json
from api.uploads import whole_body
from dicomweb.errors import Forbidden
from storage.access import SCOPES


async def delayed_deletion(http: Exchange) -> None:
    """How many files wait to be removed."""
    pending = await http.archive.rest_state.pending_deletions(http.access)
    await send_json(http, {"DatabaseServerIdentifier": "", "FilesPendingDeletion": pending})


async def advanced_storage(http: Exchange) -> None:
    """The same, and that the server looks for files in no folder."""
    pending = await http.archive.rest_state.pending_deletions(http.access)
    answer = {"DelayedDeletionIsActive": True, "FilesPendingDeletion": pending, "IndexerIsActive": False}
    await send_json(http, answer)


async def profile(http: Exchange) -> None:
    """Who asks, and what they may: whoever reaches the server may do everything."""
    access = http.access
    answer = {
        "name": access.principal, "permissions": ["all"] if access.scopes >= SCOPES else [],
        "authorized-labels": list(access.labels) or ["*"], "groups": [],
    }  # fmt: skip
    await send_json(http, answer, NO_STORE)


async def refused(http: Exchange, why: str) -> None:
    """Nothing of the kind is here."""
    await whole_body(http, http.settings.max_json, "max_json")
    raise Forbidden(why)


_ONE_STORE: Final = "there is one object store, in which everything is: nothing can be moved to another"
_FOLDERS: Final = (
    "files belong to the archive: `anor import` reads those of other folders and leaves them where they are"
)
_HOUSEKEEPER: Final = "nothing is made anew by itself: POST /tools/reconstruct is the job for that"
_NOBODY: Final = "nobody logs in here yet, and whoever reaches the server may do everything: there are no"
_AUTHORIZATION: Final[tuple[tuple[Literal["GET", "POST", "PUT"], str, str, str, Any], ...]] = (
    ("PUT", "/auth/tokens/{token_type}", "Refuse to make a token", "tokens: a link with one would protect nothing",
     {"Resources": [], "Type": "ohif-viewer-publication"}),
    ("POST", "/auth/tokens/decode", "Refuse to decode a token", "tokens", {"TokenKey": "token", "TokenValue": "…"}),
    ("GET", "/auth/settings/roles", "Refuse to tell of roles", "roles", ()),
    ("PUT", "/auth/settings/roles", "Refuse to set roles", "roles", {"roles": {}}),
    ("GET", "/auth/settings/permissions", "Refuse to tell of permissions", "permissions to choose from", ()),
    ("GET", "/auth/audit-logs", "Refuse to tell of an audit log", "users whose doings could be told apart", ()),
)  # fmt: skip
_MOVE: Final = {"Resources": ["9ad2b0da-a406c43c-6e0df76d-1204b86f-78d12c15"], "TargetStorage": "object-storage"}
_ADOPT: Final = {"Path": "/mnt/files/1.dcm", "TakeOwnership": False}
_WHY: Final = "There is one store, and what is in it belongs to the archive."
_PENDING: Final = (
    "Objects of deleted and replaced resources, which the worker removes when their grace (`tomb_grace_s`) is over."
)

OPERATIONS = (
    route("GET", "/plugins/delayed-deletion/status", "system.read", ("Count files that wait for deletion", _PENDING),
          delayed_deletion, {"DatabaseServerIdentifier": "", "FilesPendingDeletion": 12}),
    route("GET", "/plugins/advanced-storage/status", "system.read", ("Tell of the storage", _PENDING),
          advanced_storage, {"DelayedDeletionIsActive": True, "FilesPendingDeletion": 12, "IndexerIsActive": False}),
    route("GET", "/plugins/housekeeper/status", "system.read",
          ("Refuse to tell of a housekeeper", "There is none: see `POST /tools/reconstruct`."),
          functools.partial(refused, why=_HOUSEKEEPER), EMPTY),
    route("POST", "/plugins/advanced-storage/adopt-instance", "system.admin", ("Refuse to adopt a file", _WHY),
          functools.partial(refused, why=_FOLDERS), EMPTY, _ADOPT),
    route("POST", "/plugins/advanced-storage/abandon-instance", "system.admin", ("Refuse to abandon a file", _WHY),
          functools.partial(refused, why=_FOLDERS), EMPTY, _ADOPT),
    route("POST", "/plugins/advanced-storage/move-storage", "system.admin", ("Refuse to move to a storage", _WHY),
          functools.partial(refused, why=_ONE_STORE), EMPTY, _MOVE),
    route("POST", "/move-storage", "system.admin", ("Refuse to move files", _WHY),
          functools.partial(refused, why=_ONE_STORE), EMPTY, _MOVE),
    route("GET", "/auth/user/profile", "system.read",
          ("Tell who asks", "As Orthanc's authorization plug-in does. Nobody logs in: it is the profile of everybody."),
          profile, {"name": "local", "permissions": ["all"], "authorized-labels": ["*"], "groups": []}),
    *(route(method, path, "system.read" if method == "GET" else "system.admin", (summary, "There is no login yet."),
            functools.partial(refused, why=f"{_NOBODY} {what}"), EMPTY, body)
      for method, path, summary, what, body in _AUTHORIZATION),
)  # fmt: skip
