"""Effective settings: default < TOML file < environment (`ANOR_<NAME>`) < command-line flag.

A `Settings` value is frozen and passed on; the environment is read only where a process begins.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from storage.sealing import Sealer
from storage.setting_checks import (
    SettingError,
    check_exposure,
    check_text,
    is_ip_url,
    is_loopback,
    mask_secret,
    parse_number,
)
from storage.settings_about import GIB, KIB, MIB, PREFIX, About
from storage.settings_model import Setting, Settings, as_text, table, variable

__all__ = [
    "About",
    "Setting",
    "SettingError",
    "Settings",
    "check_exposure",
    "find_toml",
    "from_env",
    "is_loopback",
    "load_settings",
    "shown",
    "table",
    "unknown_variables",
    "variable",
]

CONFIG_VARIABLE: Final = "ANOR_CONFIG"
DEFAULT_FILE: Final = "anor.toml"


_OF_A_SERVICE = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


def find_toml(flag: Path | None, env: Mapping[str, str]) -> Path | None:
    """The TOML file to read: --config, else ANOR_CONFIG, else ./anor.toml where it exists."""
    if flag is not None:
        return flag
    if env.get(CONFIG_VARIABLE):
        return Path(env[CONFIG_VARIABLE])
    here = Path(DEFAULT_FILE)
    return here if here.is_file() else None


def load_settings(
    flags: Mapping[str, object], env: Mapping[str, str], toml: Path | None
) -> tuple[Settings, dict[str, str]]:
    """Merge and validate; the second value says for each setting where it came from.

    A flag that is None counts as not given, an empty variable as unset. Raises SettingError, which names the setting
    and its origin. Variables with our prefix that are no settings do not matter here (Kubernetes makes such for every
    service): `unknown_variables` finds them.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    found = dict(_from_toml(toml)) if toml is not None else {}
    for setting in table():
        name, origin, raw = setting.name, "default", None
        if name in found:
            origin, raw = f"{toml}", found[name]
        if env.get(variable(name), "") != "":
            origin, raw = variable(name), env[variable(name)]
        if flags.get(name) is not None:
            origin, raw = f"--{name.replace('_', '-')}", flags[name]
        values[name] = setting.default if raw is None else _convert(setting, raw, origin)
        origins[name] = origin
    settings = Settings(**_absolute(values))
    _check_together(settings, origins)
    return settings, origins


def _absolute(values: dict[str, Any]) -> dict[str, Any]:
    """Paths relative to where the command was given; a child may run elsewhere."""
    for setting in table():
        if setting.base_type is Path and values[setting.name] is not None:
            values[setting.name] = values[setting.name].absolute()
    if values["objects"] is not None and "://" not in values["objects"]:
        values["objects"] = str(Path(values["objects"]).expanduser().absolute())
    return values


def from_env(env: Mapping[str, str]) -> Settings:
    """The settings of a child process, all of which its parent put into the environment."""
    return load_settings({}, env, None)[0]


def _from_toml(path: Path) -> Iterator[tuple[str, object]]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingError(f"cannot read the settings file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is not valid TOML: {error}") from error
    known = [setting.name for setting in table()]
    for name, value in document.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise SettingError(f"{path}: unknown setting {name}" + (f"; is {near[0]} meant?" if near else ""))
        yield name, value


def unknown_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Variables with our prefix that are no settings -> the setting that may be meant, "" where none is like it.

    Those that Kubernetes makes for a service of our name are left out, unless they look like a misspelt setting.
    """
    known = [variable(setting.name) for setting in table()]
    strange = (name for name in env if name.startswith(PREFIX) and name not in known and name != CONFIG_VARIABLE)
    near = {name: next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.8)), "") for name in strange}
    return {name: meant for name, meant in near.items() if meant or not _OF_A_SERVICE.fullmatch(name)}


def _convert(setting: Setting, raw: object, origin: str) -> object:
    """One value, from text or from TOML's own types."""

    def refuse(wanted: str) -> SettingError:
        given = "the value" if setting.about.secret else repr(raw)
        return SettingError(f"{setting.name} (from {origin}): {given} is not {wanted}")

    kind = setting.base_type
    if setting.choices:
        if raw not in setting.choices:
            raise refuse("one of " + ", ".join(setting.choices))
        return raw
    if kind is bool:
        text = str(raw).lower()
        if text not in {"true", "false", "1", "0", "yes", "no", "on", "off"}:
            raise refuse("true or false")
        return text in {"true", "1", "yes", "on"}
    if kind in {int, float}:
        number = parse_number(raw, whole=kind is int, size=setting.about.unit == "bytes")
        wanted = _number_fault(number, setting)
        if wanted:
            raise refuse(wanted)
        return number
    if not isinstance(raw, str | Path):
        raise refuse("text")
    wanted = check_text(setting.about.check, str(raw))
    if wanted:
        raise refuse(wanted)
    return Path(raw).expanduser() if kind is Path else str(raw)


def _number_fault(number: float | None, setting: Setting) -> str:
    about = setting.about
    if number is None:
        return f"a {'whole ' if setting.base_type is int else ''}number" + (f" ({about.unit})" if about.unit else "")
    if about.minimum is not None and number < about.minimum:
        return f"at least {_number(setting, about.minimum)}"
    if about.maximum is not None and number > about.maximum:
        return f"at most {_number(setting, about.maximum)}"
    return ""


def _number(setting: Setting, number: float) -> str:
    return shown(setting, int(number)) if setting.about.unit == "bytes" else f"{number:g}"


def _check_together(settings: Settings, origins: Mapping[str, str]) -> None:
    if settings.qido_default_limit > settings.qido_max_limit:
        raise SettingError(
            f"qido_default_limit (from {origins['qido_default_limit']}) is above qido_max_limit"
            f" (from {origins['qido_max_limit']})"
        )
    if (settings.s3_access_key is None) != (settings.s3_secret_key is None):
        raise SettingError("s3_access_key and s3_secret_key belong together: set both or neither")
    if settings.s3_addressing == "virtual" and settings.s3_endpoint and is_ip_url(settings.s3_endpoint):
        raise SettingError("s3_addressing virtual puts the bucket before a host name: s3_endpoint has an IP address")
    Sealer.of(settings.credentials_key_file)
    if settings.dimse_tls_port is not None:
        if settings.dimse_tls_certificate is None or settings.dimse_tls_key is None:
            raise SettingError("dimse_tls_port needs dimse_tls_certificate and dimse_tls_key")
        if settings.dimse_tls_peers != "none" and settings.dimse_tls_ca is None:
            raise SettingError("dimse_tls_peers asks for certificates: dimse_tls_ca must say which, or say none")
        if settings.dimse_tls_peers == "none" and settings.dimse_tls_crl is not None:
            raise SettingError("dimse_tls_crl has no use while dimse_tls_peers is none: nobody shows a certificate")
    if settings.dimse_require_user and settings.dimse_users is None and settings.dimse_jwt_keys is None:
        raise SettingError("dimse_require_user needs the file dimse_users or dimse_jwt_keys")


def shown(setting: Setting, value: object) -> str:
    """The value for people: passwords masked, sizes with their unit."""
    if value is None:
        return "not set"
    if setting.about.secret:
        return mask_secret(str(value))
    if setting.about.unit == "bytes" and isinstance(value, int):
        for size, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
            if value and value % size == 0:
                return f"{value // size} {name}"
    return as_text(value)
