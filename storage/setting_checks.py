"""Checks of single setting values, and whether an address can be reached from other machines."""

import ipaddress
import math
import re
import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from dicomweb.lists import split_list
from dicomweb.orthanc_kinds import parse_kinds
from dicomweb.repertoire import is_writable
from dicomweb.rules import parse_rules
from dicomweb.uids import is_uid
from storage.destinations import parse_destinations
from storage.permissions import PERMISSIONS

_UNITS = {
    "": 1, "b": 1,
    "k": 1 << 10, "kb": 1 << 10, "kib": 1 << 10,
    "m": 1 << 20, "mb": 1 << 20, "mib": 1 << 20,
    "g": 1 << 30, "gb": 1 << 30, "gib": 1 << 30,
    "t": 1 << 40, "tb": 1 << 40, "tib": 1 << 40,
}  # fmt: skip


_DSN: Final = ("postgresql://", "postgres://")


class SettingError(Exception):
    """A setting is wrong; the message names it, where it came from, and what would be right."""


def parse_number(raw: object, *, whole: bool, size: bool) -> int | float | None:
    """The number in `raw`, or None. With `size`, text may end in a unit: `8 MiB`, `64k`."""
    if isinstance(raw, bool) or (isinstance(raw, float) and not math.isfinite(raw)):  # TOML knows inf and nan
        return None
    if isinstance(raw, int | float):
        return (int(raw) if raw == int(raw) else None) if whole else float(raw)
    if not isinstance(raw, str):
        return None
    match = re.fullmatch(r"([+-]?\d[\d_]*(?:\.\d+)?)\s*([a-zA-Z]*)", raw.strip())
    if match is None or (match[2] and not size) or match[2].lower() not in _UNITS:
        return None
    number = float(match[1].replace("_", "")) if "." in match[1] else int(match[1].replace("_", ""))
    number *= _UNITS[match[2].lower()]
    if not whole:
        return float(number)
    return int(number) if number == int(number) else None


def is_ip_url(url: str) -> bool:
    """Whether the host of a URL is an IP address."""
    try:
        ipaddress.ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return False
    return True


def check_text(rule: str, text: str) -> str:
    """What a text setting should have been, or "" where it is right."""
    if rule in _LISTS:
        is_item, wanted = _LISTS[rule]
        return "" if all(map(is_item, split_list(text))) else wanted
    if rule in _TEXTS:
        is_right, wanted = _TEXTS[rule]
        return "" if is_right(text) else wanted
    return _EXPLAINED[rule](text) if rule in _EXPLAINED else ""


def _is_aet(text: str) -> bool:
    plain = text == text.strip() and text.isascii() and text.isprintable() and "\\" not in text
    return plain and 0 < len(text) <= 16


def _is_url(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in {"http", "https"} and bool(parts.netloc) and not (parts.query or parts.fragment)


def _are_origins(text: str) -> bool:
    return text == "*" or all(re.fullmatch(r"https?://[^/\s]+", item) for item in split_list(text))


def _is_font(text: str) -> bool:
    try:
        with Path(text).expanduser().open("rb") as file:
            return file.read(4) in {b"\0\1\0\0", b"OTTO", b"ttcf", b"true"}
    except OSError:
        return False


def _are_ciphers(text: str) -> bool:
    if not text:  # those of the profile
        return True
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers(text)
    except ssl.SSLError:
        return False
    return True


def _check_parsed(parse: Callable[[str], object], wanted: str, text: str) -> str:
    try:
        parse(text)
    except ValueError as error:
        return f"{wanted} ({error})"
    return ""


def _check_objects(text: str) -> str:
    if text.startswith("s3://"):
        return (
            ""
            if re.match(r"s3://[a-z0-9][a-z0-9.-]{2,62}(/|$)", text)
            else "s3://bucket/prefix with a bucket name of 3 to 63 characters"
        )
    return "a directory or s3://bucket/prefix" if "://" in text or not text.strip() else ""


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _is_caller(text: str) -> bool:
    title, at, network = text.partition("@")
    return _is_aet(title) and (not at or _is_network(network))


_Check = Callable[[str], bool]
# Settings that are comma-separated lists: what each item has to be.
_LISTS: Final[dict[str, tuple[_Check, str]]] = {
    "networks": (_is_network, "a comma-separated list of networks such as 10.0.0.0/8"),
    "permissions": (PERMISSIONS.__contains__, "out of " + ", ".join(sorted(PERMISSIONS))),
    "uids": (is_uid, "a comma-separated list of UIDs"),
    "callers": (_is_caller, "AE titles such as CT1 or CT1@10.0.0.0/8"),
}
# All others: what the text has to be.
_TEXTS: Final[dict[str, tuple[_Check, str]]] = {
    "aet": (_is_aet, "an AE title: 1 to 16 printable ASCII characters"),
    "dsn": (lambda text: text.startswith(_DSN), "a URL that begins with postgresql://"),
    "url": (_is_url, "a URL that begins with http:// or https://, without a query"),
    "sse": (
        lambda text: text in {"AES256", "aws:kms"} or bool(re.fullmatch(r"aws:kms:\S+", text)),
        "AES256, aws:kms or aws:kms:KEY-ID",
    ),
    "root": (lambda text: bool(re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", text)), "a path such as /dicom-web"),
    "origins": (_are_origins, "`*` or a comma-separated list of origins such as https://viewer.example.org"),
    "character_set": (
        lambda text: is_writable(text.encode("utf-8")),
        "defined terms of Specific Character Set, with backslashes between several",
    ),
    "ciphers": (_are_ciphers, "cipher suites of TLS 1.2 that OpenSSL knows, such as ECDHE+AESGCM:ECDHE+CHACHA20"),
    "font": (_is_font, "a file with a TrueType or OpenType font"),
}
# Those whose mistakes are worth a word of their own.
_EXPLAINED: Final[dict[str, Callable[[str], str]]] = {
    "objects": _check_objects,
    "rules": partial(_check_parsed, parse_rules, "rules such as CT,MR=HTJ2KLosslessRPCL; *=received"),
    "kinds": partial(_check_parsed, parse_kinds, "names and numbers such as ward=1024,room=1025"),
    "destinations": partial(
        _check_parsed, parse_destinations, "networks and hosts such as 10.0.0.0/8,pacs.example.org,*.example.org"
    ),
}


def mask_secret(text: str) -> str:
    """A URL without its password, or stars for any other secret."""
    parts = urlsplit(text)
    if not parts.scheme or not parts.netloc:
        return "*****"
    user, at, rest = parts.netloc.rpartition("@")
    query = re.sub(r"(?i)(password|secret)=[^&]*", r"\1=*****", parts.query)
    if at and ":" in user:
        user = user.split(":", 1)[0] + ":*****"
    return urlunsplit(parts._replace(netloc=user + at + rest, query=query))


def is_loopback(host: str) -> bool:
    """Whether nothing but this machine can reach `host`: every address of the name lies in the loopback network.

    Raises SettingError for a name that has no address.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SettingError(f"host: {host!r} has no address on this machine ({error.strerror})") from error
    return all(ipaddress.ip_address(str(item[4][0]).split("%")[0]).is_loopback for item in found)


def check_exposure(host: str, *, insecure: bool) -> None:
    """Refuse an address that others can reach while nobody has to log in; raises SettingError."""
    if not insecure and not is_loopback(host):
        raise SettingError(
            f"host {host} can be reached from other machines, and there is no login yet: everyone who reaches it could"
            " read and delete every study. Listen on 127.0.0.1 behind a proxy that authenticates,"
            " or say --insecure (ANOR_INSECURE=true) where the network itself is the protection."
        )
