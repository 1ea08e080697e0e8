"""`/peers`: other Orthanc servers, or whoever speaks as one, that are declared."""

from typing import Any, Final

import orjson

from api.examples import DICOM
from api.exchange import Exchange
from api.routes.orthanc.dialect import EMPTY, field, flag, json_of, route, send_json, send_text, submit
from api.routes.orthanc.remotes import CONFIGURATION, DECLARED, HOW, configuration_of, declared
from api.routes.orthanc.requests import log_exports, resources_of
from api.routing import Content, Parameter
from api.uploads import received
from dicomweb.errors import BadRequest, PeerFailed
from storage.modification_plan import TARGETS
from storage.outbound import Answer, refusal
from storage.remote_sending import PEER_STORE
from storage.remotes import Remote

_BELOW: Final = ("configuration", "store", "store-straight", "system")
_MAX_INSTANCES: Final = 1_000_000
_ANSWER_MAX: Final = 1 << 20
_CHUNK: Final = 256 << 10


async def peers(http: Exchange) -> None:
    """The names of all, or with `expand` what is known of them."""
    found = await http.archive.remotes.list(http.access, "peer")
    if flag(http, "expand"):
        await send_json(http, {each.name: configuration_of(each) for each in found})
    else:
        await send_json(http, [each.name for each in found])


async def below(http: Exchange) -> None:
    """What can be done with one."""
    await _peer(http)
    await send_json(http, list(_BELOW))


async def configuration(http: Exchange) -> None:
    """What is known of one."""
    await send_json(http, configuration_of(await _peer(http)))


async def put(http: Exchange) -> None:
    """Declare one, or change it."""
    await http.archive.remotes.put(http.access, declared("peer", http.path["peer"], await json_of(http)))
    await send_text(http, "")


async def delete(http: Exchange) -> None:
    """Forget one."""
    await http.archive.remotes.delete(http.access, "peer", http.path["peer"])
    await send_text(http, "")


async def system(http: Exchange) -> None:
    """What a peer says of itself."""
    async with http.archive.remotes.caller(http.access, "peer", http.path["peer"]) as caller:
        answer = await caller.ask("GET", "system", limit=_ANSWER_MAX)
    await send_json(http, _json(answer))


async def store(http: Exchange) -> None:
    """Send resources."""
    given = await json_of(http)
    if not isinstance(given, dict):
        given = {"Resources": [given] if isinstance(given, str) else given}
    resources = resources_of(given)
    peer = await _peer(http)
    target = field(given, "Transcode", str, "") or None
    if target is not None and target not in TARGETS:
        raise BadRequest("Transcode is the UID of a transfer syntax that can be written", attribute="Transcode")
    compress = field(given, "Compress", bool, False)
    access = http.access.with_scope("dicom.read")
    instances = await http.archive.archives.instances(access, resources, _MAX_INSTANCES)
    said: dict[str, Any] = {"Compress": compress, "Peer": configuration_of(peer)}
    said |= {"ParentResources": sorted(set(resources))} if resources else {}
    said |= {"Transcode": target} if target else {}
    await log_exports(http, peer.name, resources)
    content = {"remote": peer.name, "compress": compress, "transcode": target, "said": said}
    await submit(http, PEER_STORE, content, [uid for _, uid in instances], given)


async def store_straight(http: Exchange) -> None:
    """Send a file that is not stored here."""
    async with http.archive.remotes.caller(http.access, "peer", http.path["peer"]) as caller:
        entry = await received(http)
        spooled = await entry.finish()
        try:
            answer = await caller.ask(
                "POST", "instances", headers={"content-type": DICOM}, content=spooled.chunks(_CHUNK),
                size=spooled.size, limit=_ANSWER_MAX,
            )  # fmt: skip
        finally:
            spooled.release()
            entry.memory.release()
    await send_json(http, _json(answer))


async def _peer(http: Exchange) -> Remote:
    return await http.archive.remotes.get(http.access.with_scope("remotes.read"), "peer", http.path["peer"])


def _json(answer: Answer) -> Any:
    if answer.status != 200:
        raise refusal(answer.status)
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        raise PeerFailed("the peer did not answer as an Orthanc does") from None


_ID: Final = "9ad2b0da-a406c43c-6e0df76d-1204b86f-78d12c15"
_SENT: Final = {
    "Compress": False, "Description": "REST API", "FailedInstancesCount": 0, "InstancesCount": 120,
    "ParentResources": [_ID], "Peer": CONFIGURATION, "Size": "63504120", "SizeMB": 60,
}  # fmt: skip
_UPLOADED: Final = {"ID": _ID, "Path": f"/instances/{_ID}", "Status": "Success"}
_SYSTEM: Final = {"ApiVersion": 31, "DicomAet": "ORTHANC", "Name": "Orthanc", "Version": "1.13.0"}
_EXPAND: Final = Parameter("expand", "query", "what is known of each", "true", kind="boolean")
_SYNTAX: Final = "`Transcode`: in that transfer syntax where it is possible."
_JOBS: Final = "Synchronous unless `Asynchronous` is true."
_ONE: Final = "/peers/{peer}"

OPERATIONS = (
    route("GET", "/peers", "remotes.read", ("List peers", "The Orthanc servers that are declared."), peers,
          ["north", "south"], parameters=(_EXPAND,)),
    route("GET", _ONE, "remotes.read", ("List what a peer can be asked", "Names of the routes below."), below,
          list(_BELOW)),
    route("PUT", _ONE, "remotes.admin", ("Declare a peer", HOW), put, EMPTY, DECLARED),
    route("DELETE", _ONE, "remotes.admin", ("Forget a peer", "Jobs for it that wait fail; one that runs goes on."),
          delete, EMPTY),
    route("GET", f"{_ONE}/configuration", "remotes.read", ("See a peer", "Without what it is called with."),
          configuration, CONFIGURATION),
    route("GET", f"{_ONE}/system", "remotes.run", ("Ask a peer who it is", "Its own `/system`."), system, _SYSTEM),
    route("POST", f"{_ONE}/store", "remotes.run",
          ("Send resources to a peer",
           f"An identifier as text, a list of them, or an object; `Compress`: as gzip. {_SYNTAX} {_JOBS}"),
          store, _SENT, (Content("text/plain", _ID), Content("application/json", {"Resources": [_ID]}))),
    route("POST", f"{_ONE}/store-straight", "remotes.run",
          ("Send a file to a peer", "The file is not stored here; the answer is the peer's."), store_straight,
          _UPLOADED, (Content(DICOM, "(the bytes of a DICOM file)"),)),
)  # fmt: skip
