"""`/transfers`: sending and pulling in buckets, and what two servers say to each other meanwhile.

As by Orthanc's transfers accelerator plug-in, with which this can be mixed.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final

import orjson

from api.exchange import Exchange
from api.responses import send_stream
from api.routes.orthanc.dialect import (
    JOB_ID,
    NOTHING,
    SUBMITTED,
    failure_of,
    field,
    json_of,
    object_of,
    route,
    send_json,
    submit,
    while_connected,
)
from api.routes.orthanc.requests import log_exports
from api.routing import Content, Parameter
from api.uploads import BodyReader, Upload, refuse_encoding
from dicomweb.errors import ArchiveError, BadQuery, BadRequest, NotFound, PeerFailed
from dicomweb.tags import Level
from dicomweb.transfers import MAX_NAMED, compression_of, read_plan
from storage.gzipped import packed, unpacked
from storage.parallel import side_by_side
from storage.remotes import Remote
from storage.resource import Resource, spelled
from storage.transfer_jobs import ANSWER_MAX, PULL, PUSH, ask_json

_MAX_RESOURCES: Final = 10_000
_CONNECTIVITY_SECONDS: Final = 2.0
_PEERS_AT_ONCE: Final = 16
_OCTETS: Final = "application/octet-stream"
_GZIP: Final = "application/gzip"


async def peers(http: Exchange) -> None:
    """Which peers have the plug-in: their own `/plugins` says so."""
    found: dict[str, str] = {}

    async def look(peer: Remote) -> None:
        found[peer.name] = "disabled"
        try:
            async with http.archive.remotes.caller(
                http.access, "peer", peer.name, patience=_CONNECTIVITY_SECONDS
            ) as caller:
                answer = await caller.ask("GET", "plugins", limit=ANSWER_MAX)
            plugins = orjson.loads(answer.body)
        except (ArchiveError, orjson.JSONDecodeError):
            return
        if isinstance(plugins, list) and "transfers" in plugins:
            found[peer.name] = "bidirectional" if peer.properties.get(_SELF) else "installed"

    declared = await http.archive.remotes.list(http.access.with_scope("remotes.read"), "peer")
    await side_by_side(look, declared, _PEERS_AT_ONCE)
    await send_json(http, found)


async def send(http: Exchange) -> None:
    """Send resources to a peer, or have it pull them where its declaration says that it knows us."""
    given = await object_of(http, needed=True)
    peer, resources, content = await _query(http, given)
    access = http.access.with_scope("dicom.read")
    await http.archive.transfers.require(access, resources)
    await log_exports(http, peer.name, [spelled(each.id) for each in resources])
    known_as = peer.properties.get(_SELF)
    if not known_as:
        await submit(http, PUSH, content, [], given | _AT_ONCE)
        return
    asked = content["said"] | {"Peer": known_as, "Originator": await http.archive.transfers.originator(access)}
    async with http.archive.remotes.caller(http.access, "peer", peer.name) as caller:
        said = await ask_json(caller, "POST", "transfers/pull", asked)
    if not isinstance(said.get("ID"), str) or not isinstance(said.get("Path"), str):
        raise PeerFailed("the peer did not answer as the transfers plug-in does")
    url = peer.url + said["Path"].lstrip("/")
    await send_json(http, {"Peer": peer.name, "RemoteJob": said["ID"], "URL": url})


async def pull(http: Exchange) -> None:
    """Pull resources of a peer."""
    given = await object_of(http, needed=True)
    _, _, content = await _query(http, given)
    originator = field(given, "Originator", str, "")
    said = content["said"] | ({"Originator": originator} if originator else {})
    await submit(http, PULL, content | {"originator": originator, "said": said}, [], given | _AT_ONCE)


async def _query(http: Exchange, given: Mapping[str, Any]) -> tuple[Remote, list[Resource], dict[str, Any]]:
    """What a request to send or pull names: the peer, the resources, and the content of the job."""
    resources = _resources(given.get("Resources"))
    compression = compression_of(given.get("Compression"))
    name = field(given, "Peer", str, "")
    peer = await http.archive.remotes.get(http.access.with_scope("remotes.read"), "peer", name)
    named = [{"Level": each.level.capitalize(), "ID": spelled(each.id)} for each in resources]
    content = {
        "remote": peer.name,
        "resources": [[each.level, spelled(each.id)] for each in resources],
        "compression": compression,
        "said": {"Resources": named, "Peer": peer.name, "Compression": compression},
    }
    return peer, resources, content


def _resources(given: Any) -> list[Resource]:
    if not isinstance(given, list) or len(given) > _MAX_RESOURCES or not all(isinstance(each, dict) for each in given):
        raise BadRequest(f"Resources is a list of at most {_MAX_RESOURCES} objects", attribute="Resources")
    found = []
    for each in given:
        level, name = field(each, "Level", str, "").lower(), field(each, "ID", str, "")
        if level not in set(Level):
            raise BadRequest("Level is Patient, Study, Series or Instance", attribute="Level")
        try:
            found.append(Resource.of(Level(level), name))
        except NotFound:
            raise BadRequest("ID is the Orthanc identifier of a resource", attribute="ID") from None
    return found


# -- what another server asks


async def lookup(http: Exchange) -> None:
    """The instances of resources, with the sizes and digests of their files."""
    service = http.archive.transfers
    members = await service.members(http.access, _resources(await json_of(http)))
    size = sum(each.size for each in members)
    answer = {
        "Instances": [each.shown() for each in members],
        "Originator": await service.originator(http.access),
        "CountInstances": len(members),
        "TotalSize": str(size),
        "TotalSizeMB": round(size / (1 << 20)),
    }
    await send_json(http, answer)


async def chunks(http: Exchange) -> None:
    """A range of the files of instances that are put one after the other."""
    ids = http.path["ids"].split(".")
    if len(ids) > MAX_NAMED:
        raise BadRequest(f"at most {MAX_NAMED} instances")
    offset, length = _number(http, "offset"), _number(http, "size")
    compression = compression_of(http.query_value("compression") or "none")
    files = await http.archive.transfers.located(http.access, ids)
    left = max(0, sum(each.size for each in files) - offset)
    length = min(length, left) if length else left
    data = http.archive.transfers.read(files, offset, length)
    async with aclosing(data):
        if compression == "gzip":
            await send_stream(http, 200, [(b"content-type", _GZIP.encode())], None, packed(data))
        else:
            await send_stream(http, 200, [(b"content-type", _OCTETS.encode())], length, data)


def _number(http: Exchange, name: str) -> int:
    text = http.query_value(name) or "0"
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise BadQuery(f"{name} is a number of bytes", attribute=name)
    return int(text)


async def announce(http: Exchange) -> None:
    """Begin to take what a peer pushes."""
    given = await object_of(http, needed=True)
    compression = compression_of(given.get("Compression"))
    http.access.require("dicom.write")
    made = await http.archive.transfers.create(http.access, "received", read_plan(given), compression)
    await send_json(http, {"ID": made.id, "Path": f"/transfers/push/{made.id}"})


async def put(http: Exchange) -> None:
    """Take a bucket."""
    refuse_encoding(http)
    service, name, text = http.archive.transfers, http.path["transfer"], http.path["chunk"]
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise NotFound("no such bucket: their numbers begin with 0")
    compression, size = await service.expected(http.access, name, int(text))
    entry = Upload(http, http.header(b"content-length"), raw=True)
    try:
        with BodyReader(http, http.settings.max_body, "max_body") as body:
            async with aclosing(unpacked(_read(body), size, gzip=compression == "gzip")) as pieces:
                async for piece in pieces:
                    await entry.spool.write(piece)
    except BaseException:
        entry.drop()
        raise
    content = await entry.finish()
    try:
        await service.put(http.access, "received", name, int(text), content)
    finally:
        entry.memory.release()
    await send_json(http, {})


async def _read(body: BodyReader) -> AsyncIterator[bytes]:
    while (chunk := await body.read()) is not None:
        yield chunk


async def commit(http: Exchange) -> None:
    """Store what a peer has pushed: answered when that is done."""
    job = await http.archive.transfers.commit(http.access, http.path["transfer"], http.peer)
    if job is not None:
        found = await while_connected(http, http.archive.jobs.wait(http.access.with_scope("jobs.read"), job))
        if found is None:
            return
        if found.state != "success":
            raise failure_of(found)
    await send_json(http, {})


async def discard(http: Exchange) -> None:
    """Forget what a peer has pushed."""
    http.access.require("dicom.write")
    await http.archive.transfers.drop(http.access, "received", http.path["transfer"])
    await send_json(http, {})


_SELF: Final = "RemoteSelf"  # of a peer's declaration: what it calls us
_AT_ONCE: Final = {"Synchronous": False, "Asynchronous": True}
_ID: Final = "9ad2b0da-a406c43c-6e0df76d-1204b86f-78d12c15"
_FILE: Final = {
    "ID": "66a662ce-7430e543-bad44d47-0dc5a943-ec7a538d", "Size": "525314", "MD5": "5d41402abc4b2a76b9719d911017c592",
}  # fmt: skip
_RESOURCES: Final = [{"Level": "Study", "ID": _ID}]
_ASKED: Final = {"Resources": _RESOURCES, "Peer": "north", "Compression": "none", "Priority": 0}
_FOUND: Final = {
    "Instances": [_FILE], "Originator": "5a3b3f0c-7c4f-4b3f-9a50-0b53ab0f4f6d", "CountInstances": 1,
    "TotalSize": "525314", "TotalSizeMB": 1,
}  # fmt: skip
_PLAN: Final = {
    "Instances": [_FILE], "Compression": "none", "Buckets": [[{"ID": _FILE["ID"], "Offset": "0", "Size": "525314"}]],
}  # fmt: skip
_ONE: Final = "/transfers/push/{transfer}"
_RANGE: Final = (
    Parameter("offset", "query", "where the range begins, in bytes", "0", kind="integer"),
    Parameter("size", "query", "bytes of the range; 0: to the end", "525314", kind="integer"),
    Parameter("compression", "query", "gzip or none", "none"),
)

OPERATIONS = (
    route("GET", "/transfers/peers", "remotes.run",
          ("Tell which peers take transfers", "`disabled`; `installed`; `bidirectional`: they pull what we send."),
          peers, {"north": "installed", "south": "disabled"}),
    route("POST", "/transfers/send", "remotes.run",
          ("Send resources to a peer in buckets",
           "The peer stores all of it or nothing. Where its declaration has a `RemoteSelf`, it is asked to pull."),
          send, SUBMITTED, _ASKED),
    route("POST", "/transfers/pull", "remotes.run",
          ("Pull resources of a peer in buckets", "All of it is stored, or nothing."), pull, SUBMITTED, _ASKED),
    route("POST", "/transfers/lookup", "dicom.read",
          ("List files to transfer", "Instances of resources, with sizes and MD5 of their files."), lookup, _FOUND,
          Content("application/json", _RESOURCES)),
    route("GET", "/transfers/chunks/{ids}", "dicom.read",
          ("Read a range of several files", "Of instances, with dots between their identifiers, one after the other."),
          chunks, (Content(_OCTETS, "(bytes)"), Content(_GZIP, "(bytes)")), parameters=_RANGE),
    route("POST", "/transfers/push", "dicom.write",
          ("Announce a push", "Instances, and the buckets that hold every byte of them once."), announce,
          {"ID": JOB_ID, "Path": f"/transfers/push/{JOB_ID}"}, _PLAN),
    route("PUT", f"{_ONE}/{{chunk}}", "dicom.write",
          ("Push a bucket", "In the announced compression. A bucket that comes again replaces the first."), put,
          NOTHING, Content(_OCTETS, "(bytes)")),
    route("POST", f"{_ONE}/commit", "dicom.write",
          ("Store what was pushed", "Every MD5 is checked before the first instance is stored. May be repeated."),
          commit, NOTHING, NOTHING),
    route("DELETE", _ONE, "dicom.write", ("Discard a push", "What came is removed."), discard, NOTHING),
)  # fmt: skip
