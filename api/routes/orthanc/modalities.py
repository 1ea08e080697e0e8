"""`/modalities`: other application entities that are declared."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from api.exchange import Exchange
from api.routes.orthanc.dialect import (
    EMPTY,
    NOTHING,
    field,
    flag,
    json_of,
    object_of,
    route,
    send_json,
    send_text,
    texts,
)
from api.routing import Parameter
from dicomweb.errors import BadRequest, PeerFailed
from storage.modalities import Modality
from storage.permissions import PERMISSIONS

# Orthanc's names of permissions; what it splits in two is one of ours.
_ALLOW: Final = {
    "AllowEcho": "echo", "AllowFind": "find", "AllowFindWorklist": "worklist", "AllowGet": "get", "AllowMove": "move",
    "AllowStore": "store", "AllowNAction": "commitment", "AllowEventReport": "commitment", "AllowMpps": "mpps",
}  # fmt: skip
_BELOW: Final = (
    "configuration", "echo", "find", "find-instance", "find-patient", "find-series", "find-study", "find-worklist",
    "get", "move", "query", "storage-commitment", "store", "store-straight",
)  # fmt: skip


# -- declarations


async def modalities(http: Exchange) -> None:
    """The names of all, or with `expand` what is known of them."""
    found = await http.archive.modalities.list(http.access)
    if flag(http, "expand"):
        await send_json(http, {each.name: configuration_of(each) for each in found})
    else:
        await send_json(http, [each.name for each in found])


async def below(http: Exchange) -> None:
    """What can be done with one."""
    await http.archive.modalities.get(http.access, http.path["modality"])
    await send_json(http, list(_BELOW))


async def configuration(http: Exchange) -> None:
    """What is known of one."""
    await send_json(http, configuration_of(await http.archive.modalities.get(http.access, http.path["modality"])))


async def put(http: Exchange) -> None:
    """Declare one, or change it."""
    await http.archive.modalities.put(http.access, parsed(http.path["modality"], await json_of(http)))
    await send_text(http, "")


async def delete(http: Exchange) -> None:
    """Forget one."""
    await http.archive.modalities.delete(http.access, http.path["modality"])
    await send_text(http, "")


def configuration_of(modality: Modality) -> dict[str, Any]:
    """A modality as Orthanc describes it."""
    return {
        "AET": modality.aet,
        "Host": modality.host,
        "Port": modality.port,
        "Manufacturer": modality.manufacturer,
        **{name: permission in modality.allow for name, permission in _ALLOW.items()},
        "AllowStorageCommitment": "commitment" in modality.allow,
        "AllowTranscoding": modality.transcoding,
        "UseDicomTls": modality.tls,
        "LocalAet": modality.local_aet or "",
        "Timeout": int(modality.timeout or 0),
        "RetrieveMethod": modality.retrieve_method,
        "Certificates": list(modality.certificates),
        "NotifyMpps": modality.notify_mpps,
        **_user_of(modality),
    }


def _user_of(modality: Modality) -> dict[str, Any]:
    """What may be seen of the user by whom we identify ourselves to it."""
    if modality.username is not None:
        return {"UserIdentity": {"Username": modality.username, "Password": None}}
    return {} if modality.secret is None else {"UserIdentity": {"Token": None}}


def parsed(name: str, given: Any) -> Modality:
    """A modality that is described by an object, or by a list of AE title, host, port and manufacturer."""
    if isinstance(given, list) and 3 <= len(given) <= 4:
        given = dict(zip(("AET", "Host", "Port", "Manufacturer"), given, strict=False))
    if not isinstance(given, dict):
        raise BadRequest("a modality is an object, or a list of AE title, host, port and manufacturer")
    for needed in ("AET", "Host", "Port"):
        if needed not in given:
            raise BadRequest(f"{needed} is missing", attribute=needed)
    if isinstance(given["Port"], str) and given["Port"].isdecimal():
        given = given | {"Port": int(given["Port"][:6])}
    names = dict(_ALLOW) | {"AllowStorageCommitment": "commitment"}
    denied = {permission for name, permission in names.items() if not field(given, name, bool, True)}
    return Modality(
        name,
        field(given, "AET", str, ""),
        field(given, "Host", str, ""),
        field(given, "Port", int, 0),
        field(given, "Manufacturer", str, "Generic"),
        PERMISSIONS - denied,
        field(given, "LocalAet", str, "") or None,
        field(given, "Timeout", float, 0.0) or None,
        field(given, "UseDicomTls", bool, False),
        field(given, "AllowTranscoding", bool, True),
        field(given, "RetrieveMethod", str, "SystemDefault"),
        tuple(map(_certificate, texts(given, "Certificates"))),
        field(given, "NotifyMpps", bool, False),
        *_user(field(given, "UserIdentity", dict, {})),
    )


def _user(given: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Username and passcode, or none and a token. Raises BadRequest."""
    username, password, token = (field(given, name, str, "") or None for name in ("Username", "Password", "Token"))
    if not (password is None or username) or (token and username):
        raise BadRequest("UserIdentity is a Username, with or without Password, or a Token", attribute="UserIdentity")
    if given and not (username or token):
        raise BadRequest("UserIdentity has neither Username nor Token", attribute="UserIdentity")
    return username, password or token


def _certificate(text: str) -> str:
    """`DNS:name` and `CN:name` in lower case, a digest without its colons."""
    found = text.strip().lower()
    return found if found.startswith(("dns:", "cn:")) else found.replace(":", "")


async def asked(http: Exchange, given: Mapping[str, Any], name: str | None = None) -> Modality:
    """The modality that is addressed, with what the request says otherwise. Raises NotFound, BadRequest."""
    access = http.access.with_scope("dimse.read")
    found = await http.archive.modalities.get(access, http.path["modality"] if name is None else name)
    changed = replace(
        found,
        host=field(given, "Host", str, found.host),
        port=field(given, "Port", int, found.port),
        aet=field(given, "CalledAet", str, found.aet),
        local_aet=field(given, "LocalAet", str, "") or found.local_aet,
        timeout=field(given, "Timeout", float, 0.0) or found.timeout,
    )
    if (changed.host, changed.port) != (found.host, found.port):  # the user is known there, and nowhere else
        changed = replace(changed, username=None, secret=None)
    if changed == found:
        return changed
    replace(changed, secret=None).checked()  # it was, before it was encrypted
    return changed


def local_aet(http: Exchange, modality: Modality) -> str:
    """How we call ourselves to a modality."""
    return modality.local_aet or http.settings.aet


async def echo(http: Exchange) -> None:
    """C-ECHO, and with `CheckFind` a C-FIND."""
    given = await object_of(http)
    modality = await asked(http, given)
    await http.services.requestor.echo(modality, find=field(given, "CheckFind", bool, False))
    await send_json(http, {})


async def echo_anyone(http: Exchange) -> None:
    """The same to an application entity that is not declared."""
    given = await object_of(http)
    modality = parsed("undeclared", given).checked()
    await http.services.requestor.echo(modality, find=field(given, "CheckFind", bool, False))
    await send_json(http, {})


_CT: Final = Modality("ct", "CT1", "192.0.2.10", 104)
_DECLARED: Final = {"AET": "CT1", "Host": "192.0.2.10", "Port": 104}
_IDENTITY: Final = "`UserIdentity` (`Username` and `Password`, or `Token`) says who we are when we ask it."
_ONE: Final = "/modalities/{modality}"
_EXPAND: Final = Parameter("expand", "query", "what is known of each", "true", kind="boolean")

_ECHO_ANYONE: Final = route(
    "POST", "/tools/dicom-echo", "dimse.admin", ("C-ECHO to anyone", "To one that is not declared."),
    echo_anyone, NOTHING, _DECLARED,
)  # fmt: skip
OPERATIONS = (
    route("GET", "/modalities", "dimse.read", ("List modalities", "The declared application entities."), modalities,
          ["ct", "pacs"], parameters=(_EXPAND,)),
    route("GET", _ONE, "dimse.read", ("List what a modality can be asked", "Names of the routes below."), below,
          list(_BELOW)),
    route("PUT", _ONE, "dimse.admin",
          ("Declare a modality",
           "An object, or a list of AE title, host, port and manufacturer. What is not said is allowed. "
           + _IDENTITY),
          put, EMPTY, _DECLARED),
    route("DELETE", _ONE, "dimse.admin", ("Forget a modality", "Jobs that were made for it go on."), delete, EMPTY),
    route("GET", f"{_ONE}/configuration", "dimse.read", ("See a modality", "As it was declared."), configuration,
          configuration_of(_CT)),
    route("POST", f"{_ONE}/echo", "dimse.run", ("C-ECHO", "With `CheckFind` C-FIND is tried, too."), echo, NOTHING,
          {"Timeout": 5, "CheckFind": False}),
    replace(_ECHO_ANYONE, errors=(*_ECHO_ANYONE.errors, PeerFailed)),
)  # fmt: skip
