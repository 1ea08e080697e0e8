"""The small tools of Orthanc's REST API: times, identifiers, levels of logs, encodings, what is accepted, plug-ins."""

import functools
import time
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from pydicom.uid import UID, generate_uid

from api.exchange import Exchange
from api.openapi import product_version
from api.responses import send_bytes
from api.routes.orthanc.dialect import EMPTY, route, send_json, send_text
from api.routing import Content, Operation, Parameter
from api.uploads import whole_body
from dicomweb.errors import BadQuery, BadRequest, Forbidden, NotFound
from dicomweb.media import DEFLATED_LE, FRAME_MEDIA_TYPE_OF, NATIVE

_MAX_BODY: Final = 1 << 20
_MIB: Final = 1 << 20
_NOW: Final = "%Y%m%dT%H%M%S"
_UID_LEVELS: Final = ("patient", "study", "series", "instance")
_LOGS: Final = ("", "-dicom", "-generic", "-http", "-jobs", "-lua", "-plugins", "-sqlite")
_LOG_LEVELS: Final = ("default", "verbose", "trace")
_ENCODINGS: Final = (
    "Ascii", "Utf8", "Latin1", "Latin2", "Latin3", "Latin4", "Latin5", "Cyrillic", "Windows1251", "Arabic", "Greek",
    "Hebrew", "Thai", "Japanese", "Chinese", "JapaneseKanji", "Korean", "SimplifiedChinese",
)  # fmt: skip
# Everything is stored, in whatever transfer syntax it comes.
_SYNTAXES: Final = sorted({*NATIVE, DEFLATED_LE, *FRAME_MEDIA_TYPE_OF})
_IMAGES: Final = "1.2.840.10008.5.1.4.1.1."
_PLUGINS: Final = {
    "delayed-deletion": ("Files of deleted resources are removed in the background.", ""),
    "dicom-web": ("DICOMweb: QIDO-RS, WADO-RS, STOW-RS, UPS-RS and WADO-URI.", "/dicom-web/"),
    "transfers": ("Transfers in buckets between servers, all of it or nothing.", "/transfers"),
    "worklists": ("The modality worklist.", "/worklists"),
    "wsi": ("Whole-slide imaging: tiles, DeepZoom and IIIF.", "/wsi/"),
}


async def tools(http: Exchange) -> None:
    """The names of the tools."""
    await send_json(http, sorted({name for name in _NAMES if "/" not in name}))


async def now(http: Exchange, local: bool) -> None:
    """What time it is here."""
    moment = datetime.now(UTC)
    await send_text(http, (moment.astimezone() if local else moment).strftime(_NOW))


async def make_uid(http: Exchange) -> None:
    """A UID that was never used; for patients an identifier of their own."""
    level = (http.query_value("level") or "").lower()
    if level not in _UID_LEVELS:
        raise NotFound("level is patient, study, series or instance")
    await send_text(http, generate_uid(prefix=None))


async def get_state(http: Exchange, name: str, default: str) -> None:
    """What was set."""
    await send_text(http, await http.archive.rest_state.get(http.access, name, default))


async def put_state(http: Exchange, name: str, choices: tuple[str, ...]) -> None:
    """Set it, for all processes. Raises BadQuery for what is none of the choices."""
    value = await _text(http)
    if value not in choices:
        raise BadQuery("out of " + ", ".join(choices), attribute=name)
    await http.archive.rest_state.put(http.access, name, value)
    await send_text(http, value if name == "default-encoding" else "")


async def transfer_syntaxes(http: Exchange) -> None:
    """The transfer syntaxes that are taken."""
    await send_json(http, _SYNTAXES)


async def put_transfer_syntaxes(http: Exchange) -> None:
    """Nothing changes: who asks for less is refused, who asks for all has it."""
    body = await whole_body(http, _MAX_BODY)
    try:
        given = orjson.loads(body) if body.lstrip()[:1] in (b"[", b'"') else body.decode().split()
    except (orjson.JSONDecodeError, UnicodeDecodeError):
        raise BadRequest("the body is a list of UIDs, or one") from None
    patterns = [given] if isinstance(given, str) else given
    if not isinstance(patterns, list) or not all(isinstance(each, str) for each in patterns):
        raise BadRequest("the body is a list of UIDs, or one")
    if not set(patterns) & {"*", "1.2.840.10008.1.2.*"} and not set(_SYNTAXES) <= set(patterns):
        raise Forbidden("every transfer syntax is taken; that cannot be changed")
    await send_json(http, _SYNTAXES)


async def unknown_accepted(http: Exchange) -> None:
    """Whether instances of unknown SOP classes are taken: they are."""
    await send_text(http, "1")


async def put_unknown_accepted(http: Exchange) -> None:
    """Nothing changes: who asks for 0 is refused."""
    value = (await _text(http)).lower()
    if value not in ("0", "1", "true", "false"):
        raise BadRequest("the body is 0, 1, true or false")
    if value in ("0", "false"):
        raise Forbidden("instances of every SOP class are taken; that cannot be changed")
    await send_text(http, "")


async def sop_classes(http: Exchange) -> None:
    """The storage SOP classes of the standard; others are taken, too."""
    await send_json(http, _storage_classes())


@functools.cache
def _storage_classes() -> list[str]:
    from pydicom._uid_dict import UID_dictionary  # noqa: PLC0415 - thousands of names, for a route that few ask

    return sorted(uid for uid, entry in UID_dictionary.items() if uid.startswith(_IMAGES) and "Storage" in entry[0])


async def script(http: Exchange) -> None:
    """No script ever runs here: refused, or answered with nothing."""
    await whole_body(http, _MAX_BODY)
    if http.settings.scripts == "refuse":
        raise Forbidden("scripts are not run")
    await send_text(http, "")


async def refused(http: Exchange) -> None:
    """The process belongs to who started it."""
    await whole_body(http, _MAX_BODY)
    raise Forbidden("the server is started and stopped by its own machine")


async def export(http: Exchange) -> None:
    """Nothing is written to a path of the server: who asks for a file is answered with it."""
    await whole_body(http, _MAX_BODY)
    raise Forbidden("no request writes to the file system of the server")


async def invalidate(http: Exchange) -> None:
    """Nothing to do: attributes in the index are made from the files when these are stored."""
    await whole_body(http, _MAX_BODY)
    await send_text(http, "")


async def conformance(http: Exchange) -> None:
    """What the archive does, as text."""
    lines = [
        f"Anor {product_version()}, application entity {http.settings.aet}",
        "",
        "Services: C-ECHO, C-STORE, C-FIND, C-MOVE, C-GET, storage commitment, modality worklist, performed procedure",
        "steps (DIMSE); QIDO-RS, WADO-RS, STOW-RS, UPS-RS, WADO-URI (web).",
        "",
        "Storage of every SOP class. Transfer syntaxes:",
        *(f"  {uid} {UID(uid).name}" for uid in _SYNTAXES),
        "",
    ]
    await send_text(http, "\n".join(lines))


async def metrics_enabled(http: Exchange) -> None:
    """Whether metrics are counted: they always are."""
    await send_text(http, "1")


async def put_metrics(http: Exchange) -> None:
    """Nothing changes: metrics are counted anyway."""
    if await _text(http) not in ("0", "1", "true", "false"):
        raise BadRequest("the body is 0, 1, true or false")
    await send_text(http, "")


async def metrics(http: Exchange) -> None:
    """Orthanc's metrics; `/metrics` has the archive's own."""
    counts = await http.archive.statistics(http.access)
    more = await http.archive.rest_state.metrics(http.access)
    values = {
        "orthanc_count_instances": counts.instances,
        "orthanc_count_patients": counts.patients,
        "orthanc_count_series": counts.series,
        "orthanc_count_studies": counts.studies,
        "orthanc_disk_size_mb": counts.bytes / _MIB,
        "orthanc_jobs_completed": more.success + more.failed,
        "orthanc_jobs_failed": more.failed,
        "orthanc_jobs_pending": more.pending,
        "orthanc_jobs_running": more.running,
        "orthanc_jobs_success": more.success,
        "orthanc_jobs_total_completed": more.success + more.failed,
        "orthanc_jobs_total_failed": more.failed,
        "orthanc_jobs_total_success": more.success,
        "orthanc_last_change": more.last_change,
        "orthanc_uncompressed_size_mb": counts.bytes / _MIB,
    }
    at = int(time.time() * 1000)
    text = "".join(f"{name} {value:.9g} {at}\n" for name, value in values.items())
    await send_bytes(http, 200, [(b"content-type", b"text/plain; version=0.0.4")], text.encode())


async def plugins(http: Exchange) -> None:
    """What Orthanc has as plug-ins, and is part of this program."""
    await send_json(http, [*_PLUGINS, "explorer.js"])


async def plugin(http: Exchange) -> None:
    """One of them."""
    found = described_plugins(http).get(http.path["plugin"])
    if found is None:
        raise NotFound("there is no such plug-in")
    await send_json(http, found)


def described_plugins(http: Exchange) -> dict[str, dict[str, Any]]:
    """All of them, by name."""
    roots = {"dicom-web": http.settings.dicomweb_root + "/"}
    return {
        name: {
            "ID": name, "Version": product_version(), "Description": about, "RootUri": roots.get(name, root),
            "ExtendsOrthancExplorer": False,
        }
        for name, (about, root) in _PLUGINS.items()
    }  # fmt: skip


async def explorer(http: Exchange) -> None:
    """What plug-ins add to Orthanc's own pages: nothing."""
    await send_bytes(http, 200, [(b"content-type", b"application/javascript")])


async def _text(http: Exchange) -> str:
    try:
        return (await whole_body(http, _MAX_BODY)).decode().strip().strip('"')
    except UnicodeDecodeError:
        raise BadRequest("the body is text in UTF-8") from None


# -- the table


def _text_of(example: str) -> Content:
    return Content("text/plain", example)


def _logs(suffix: str) -> tuple[Operation, Operation]:
    name = f"log-level{suffix}"
    of = f" of {suffix[1:]}" if suffix else ""
    about = "It is remembered and told; what is logged is decided by the setting `log_level`."
    return (
        route("GET", f"/tools/{name}", "system.read", (f"Read the log level{of}", about),
              functools.partial(get_state, name=name, default="default"), _text_of("default")),
        route("PUT", f"/tools/{name}", "system.admin", (f"Set the log level{of}", about),
              functools.partial(put_state, name=name, choices=_LOG_LEVELS), EMPTY, _text_of("verbose")),
    )  # fmt: skip


_LEVEL: Final = Parameter("level", "query", "patient, study, series or instance", "study", required=True)
_ENCODING: Final = "Remembered and told. Texts are read in the character set that their instance names."
_TAKEN: Final = "Everything is taken; that cannot be changed."
_PLUGIN: Final = {
    "Description": "DICOMweb.", "ExtendsOrthancExplorer": False, "ID": "dicom-web", "RootUri": "/dicom-web/",
    "Version": "mainline",
}  # fmt: skip

OPERATIONS = (
    route("GET", "/tools", "system.read", ("List tools", "Their names."), tools, ["find", "lookup"]),
    route("GET", "/tools/now", "system.read", ("Tell the time in UTC", "To the second."),
          functools.partial(now, local=False), _text_of("20240131T101530")),
    route("GET", "/tools/now-local", "system.read", ("Tell the local time", "To the second."),
          functools.partial(now, local=True), _text_of("20240131T111530")),
    route("GET", "/tools/generate-uid", "system.read", ("Make a UID", "From a UUID, so that it is nobody else's."),
          make_uid, _text_of("2.25.1"), parameters=(_LEVEL,)),
    *(operation for suffix in _LOGS for operation in _logs(suffix)),
    route("GET", "/tools/default-encoding", "system.read", ("Read the default encoding", _ENCODING),
          functools.partial(get_state, name="default-encoding", default="Latin1"), _text_of("Latin1")),
    route("PUT", "/tools/default-encoding", "system.admin", ("Set the default encoding", _ENCODING),
          functools.partial(put_state, name="default-encoding", choices=_ENCODINGS), _text_of("Utf8"),
          _text_of("Utf8")),
    route("GET", "/tools/accepted-transfer-syntaxes", "system.read", ("List transfer syntaxes that are taken", _TAKEN),
          transfer_syntaxes, _SYNTAXES[:2]),
    route("PUT", "/tools/accepted-transfer-syntaxes", "system.admin", ("Take all transfer syntaxes", _TAKEN),
          put_transfer_syntaxes, _SYNTAXES[:2], _text_of("*")),
    route("GET", "/tools/unknown-sop-class-accepted", "system.read", ("Tell whether unknown classes are taken", _TAKEN),
          unknown_accepted, _text_of("1")),
    route("PUT", "/tools/unknown-sop-class-accepted", "system.admin", ("Take unknown classes", _TAKEN),
          put_unknown_accepted, EMPTY, _text_of("1")),
    route("GET", "/tools/accepted-sop-classes", "system.read", ("List storage SOP classes", _TAKEN), sop_classes,
          ["1.2.840.10008.5.1.4.1.1.2"]),
    route("POST", "/tools/execute-script", "system.admin",
          ("Refuse a script", "No script runs. With the setting `scripts` = `ignore` the answer is empty, not a 403."),
          script, EMPTY, _text_of("print(1)")),
    route("POST", "/tools/reset", "system.admin", ("Refuse to restart", "The service is its machine's."), refused,
          EMPTY, EMPTY),
    route("POST", "/tools/shutdown", "system.admin", ("Refuse to stop", "The service is its machine's."), refused,
          EMPTY, EMPTY),
    route("POST", "/instances/{id}/export", "dicom.read",
          ("Refuse to write a file", "No request writes to the server's file system; `/file` answers with the file."),
          export, EMPTY, _text_of("/srv/file.dcm")),
    route("POST", "/tools/invalidate-tags", "system.admin", ("Forget tags that are cached", "There are none."),
          invalidate, EMPTY, EMPTY),
    route("GET", "/tools/dicom-conformance", "system.read", ("Tell what the archive does", "As text."), conformance,
          _text_of("Anor 0.1.0, application entity ANOR")),
    route("GET", "/tools/metrics", "system.read", ("Tell whether metrics are counted", "They are."), metrics_enabled,
          _text_of("1")),
    route("PUT", "/tools/metrics", "system.admin", ("Count metrics", "They are counted anyway."), put_metrics, EMPTY,
          _text_of("1")),
    route("GET", "/tools/metrics-prometheus", "metrics.read", ("Read Orthanc's metrics", "`/metrics` has more."),
          metrics, _text_of("orthanc_count_studies 40 1706696130000")),
    route("GET", "/plugins", "system.read", ("List plug-ins", "Those of Orthanc that are part of this program."),
          plugins, ["delayed-deletion", "dicom-web", "transfers", "worklists", "wsi", "explorer.js"]),
    route("GET", "/plugins/{plugin}", "system.read", ("Describe a plug-in", "Version `mainline` is the newest."),
          plugin, _PLUGIN),
    route("GET", "/plugins/explorer.js", "system.read", ("Extend Orthanc's pages", "By nothing."), explorer,
          Content("application/javascript", "(empty)")),
)  # fmt: skip
_NAMES: Final = (
    *(operation.path.removeprefix("/tools/") for operation in OPERATIONS if operation.path.startswith("/tools/")),
    *(
        "bulk-anonymize",
        "bulk-content",
        "bulk-delete",
        "bulk-modify",
        "count-resources",
        "create-archive",
        "create-dicom",
        "create-media",
        "create-media-extended",
        "dicom-echo",
        "find",
        "labels",
        "lookup",
        "reconstruct",
    ),
)
