"""The flags that commands share, described by the table of settings, and how a command gets its settings."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from storage.settings import (
    SettingError,
    Settings,
    find_toml,
    load_settings,
    table,
    unknown_variables,
    variable,
)

_HELP = {setting.name: setting.about.help for setting in table()}


def _flag(name: str, *declarations: str, metavar: str | None = None) -> Any:
    text = f"{_HELP[name]} [{variable(name)}]"
    return typer.Option(*declarations, metavar=metavar, help=text, show_default=False)


ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file with settings (default: ANOR_CONFIG, else ./anor.toml)."),
]
Data = Annotated[Path | None, _flag("data", "--data", metavar="DIR")]
Host = Annotated[str | None, _flag("host", "--host", metavar="ADDRESS")]
HttpPort = Annotated[int | None, _flag("http_port", "--http-port", metavar="N")]
DimsePort = Annotated[int | None, _flag("dimse_port", "--dimse-port", metavar="N")]
Aet = Annotated[str | None, _flag("aet", "--aet", metavar="TITLE")]
Workers = Annotated[int | None, _flag("workers", "--workers", metavar="N")]
Insecure = Annotated[bool | None, _flag("insecure", "--insecure")]
LogLevel = Annotated[str | None, _flag("log_level", "--log-level", metavar="LEVEL")]
DatabaseUrl = Annotated[str | None, _flag("database_url", "--database-url", metavar="URL")]
GatewayTo = Annotated[str | None, _flag("gateway_to", "--to", metavar="URL")]
StatusPort = Annotated[int | None, _flag("gateway_status_port", "--status-port", metavar="N")]
Objects = Annotated[str | None, _flag("objects", "--objects", metavar="PLACE")]


def fail(message: object, status: int = 1) -> NoReturn:
    """End the program with one line on standard error."""
    print(f"anor: {message}", file=sys.stderr)
    raise SystemExit(status)


def settings_from(config: Path | None, **flags: object) -> tuple[Settings, dict[str, str]]:
    """Effective settings and their origins; a wrong one ends the program with status 2."""
    toml = find_toml(config, os.environ)
    try:
        settings, origins = load_settings(flags, os.environ, toml)
    except SettingError as error:
        fail(error, 2)
    secrets = [setting.name for setting in table() if setting.about.secret and origins[setting.name] == str(toml)]
    if toml is not None and secrets and toml.stat().st_mode & 0o077:
        print(f"anor: {toml} holds {', '.join(secrets)}, and others can read it: chmod 600 {toml}", file=sys.stderr)
    for name, meant in unknown_variables(os.environ).items():
        question = f"; is {meant} meant?" if meant else ""
        print(f"anor: {name} is not a setting and is ignored{question}", file=sys.stderr)
    return settings, origins


def guarded(check: Callable[[], None]) -> None:
    """Run a check of settings; a refusal ends the program with status 2."""
    try:
        check()
    except SettingError as error:
        fail(error, 2)
