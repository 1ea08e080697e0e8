"""What peers and DICOMweb servers have in common: how they are declared, and how they are shown."""

from collections.abc import Mapping
from typing import Any, Final

from api.routes.orthanc.dialect import field
from dicomweb.errors import BadRequest
from storage.remotes import Declaration, Kind, Remote

_MEMBERS: Final = frozenset(("Url", "URL", "Username", "Password", "HttpHeaders", "Timeout", "Pkcs11"))
_CERTIFICATES: Final = ("CertificateFile", "CertificateKeyFile", "CertificateKeyPassword")


def configuration_of(remote: Remote) -> dict[str, Any]:
    """A remote server as Orthanc describes it: without its passwords, and without the values of its headers."""
    said: dict[str, Any] = dict(remote.properties)
    said |= {
        "HttpHeaders": list(remote.header_names),
        "Pkcs11": False,
        "Timeout": int(remote.timeout or 0),
        "Url": remote.url,
    }
    if remote.username is not None:
        said |= {"Username": remote.username, "Password": None}
    if remote.certificate is not None:
        said |= {"CertificateFile": remote.certificate, "CertificateKeyFile": remote.certificate_key or ""}
        said |= {"CertificateKeyPassword": None}
    return said


def declared(kind: Kind, name: str, given: Any) -> Declaration:
    """A remote server that is described by an object, or by a list of URL, user and password. Raises BadRequest."""
    if isinstance(given, list) and len(given) in (1, 3):
        given = dict(zip(("Url", "Username", "Password"), given, strict=False))
    if not isinstance(given, dict):
        raise BadRequest("a remote server is an object, or a list of URL, user and password")
    if field(given, "Pkcs11", bool, False):
        raise BadRequest("Pkcs11 is not supported", attribute="Pkcs11")
    username = field(given, "Username", str, "") or None
    certificate, key, key_password = (field(given, each, str, "") or None for each in _CERTIFICATES)
    for each, owner in (("Password", username), ("CertificateKeyPassword", certificate)):
        if owner is not None and each in given and given[each] is None:
            raise BadRequest(f"{each} is never shown: give it with every change", attribute=each)
    return Declaration(
        kind,
        name,
        field(given, "Url", str, "") or field(given, "URL", str, ""),
        username,
        field(given, "Password", str, "") or None if username is not None else None,
        headers_in(given),
        field(given, "Timeout", float, 0.0) or None,
        {name: _property(name, value) for name, value in given.items() if name not in _MEMBERS | set(_CERTIFICATES)},
        certificate,
        key,
        key_password,
    )


def headers_in(given: Mapping[str, Any]) -> dict[str, str]:
    """The member HttpHeaders: names and values. Raises BadRequest."""
    headers = given.get("HttpHeaders") or {}
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise BadRequest("HttpHeaders is an object of names and texts", attribute="HttpHeaders")
    return dict(headers)


def _property(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value)
    raise BadRequest(f"{name} is a text, a number, or true or false", attribute=name)


DECLARED: Final = {
    "Url": "https://other.example.org/", "Username": "anor", "Password": "a secret", "HttpHeaders": {"X-Site": "north"},
    "Timeout": 60,
}  # fmt: skip
CONFIGURATION: Final = {
    "HttpHeaders": ["X-Site"], "Password": None, "Pkcs11": False, "Timeout": 60, "Url": "https://other.example.org/",
    "Username": "anor",
}  # fmt: skip
HOW: Final = "An object, or a list of URL, user and password. Passwords and headers are never shown again."
