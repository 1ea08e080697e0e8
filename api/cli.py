"""The program `anor`. Commands import what they need when they run: `anor --help` answers at once."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli_options import (
    Aet,
    ConfigFile,
    Data,
    DatabaseUrl,
    DimsePort,
    Host,
    HttpPort,
    Insecure,
    LogLevel,
    Objects,
    Workers,
    settings_from,
)

app = typer.Typer(
    name="anor",
    help="A DICOMweb archive: everything in one program. Settings: flags, ANOR_ variables, a TOML file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(*, version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Print the version."""
    if version:
        from importlib.metadata import version as installed

        print(installed("anor"))
        raise typer.Exit


@app.command()
def serve(
    data: Data = None,
    host: Host = None,
    http_port: HttpPort = None,
    dimse_port: DimsePort = None,
    workers: Workers = None,
    aet: Aet = None,
    database_url: DatabaseUrl = None,
    objects: Objects = None,
    insecure: Insecure = None,
    log_level: LogLevel = None,
    config: ConfigFile = None,
) -> None:
    """Run everything on this machine: PostgreSQL unless a database is given, HTTP, DIMSE, background work."""
    from api.cli_serve import run_all

    settings, _ = settings_from(
        config, data=data, host=host, http_port=http_port, dimse_port=dimse_port, workers=workers, aet=aet,
        database_url=database_url, objects=objects, insecure=insecure, log_level=log_level,
    )  # fmt: skip
    raise SystemExit(run_all(settings))


@app.command()
def api(
    data: Data = None,
    host: Host = None,
    http_port: HttpPort = None,
    workers: Workers = None,
    database_url: DatabaseUrl = None,
    objects: Objects = None,
    insecure: Insecure = None,
    log_level: LogLevel = None,
    config: ConfigFile = None,
) -> None:
    """Run the HTTP workers alone; the database has to be there and migrated."""
    from api.cli_serve import run_api

    settings, _ = settings_from(
        config, data=data, host=host, http_port=http_port, workers=workers, database_url=database_url,
        objects=objects, insecure=insecure, log_level=log_level,
    )  # fmt: skip
    raise SystemExit(run_api(settings))


@app.command()
def worker(
    data: Data = None,
    database_url: DatabaseUrl = None,
    objects: Objects = None,
    log_level: LogLevel = None,
    config: ConfigFile = None,
) -> None:
    """Run the background work alone: change numbers, sweeping, transcoding by rule."""
    from api.cli_serve import run_worker

    settings, _ = settings_from(config, data=data, database_url=database_url, objects=objects, log_level=log_level)
    raise SystemExit(run_worker(settings))


@app.command()
def dimse(
    data: Data = None,
    host: Host = None,
    dimse_port: DimsePort = None,
    aet: Aet = None,
    database_url: DatabaseUrl = None,
    objects: Objects = None,
    insecure: Insecure = None,
    log_level: LogLevel = None,
    config: ConfigFile = None,
) -> None:
    """Run the DIMSE service alone: C-ECHO, C-STORE, C-FIND."""
    from api.cli_serve import run_dimse

    settings, _ = settings_from(
        config, data=data, host=host, dimse_port=dimse_port, aet=aet, database_url=database_url, objects=objects,
        insecure=insecure, log_level=log_level,
    )  # fmt: skip
    raise SystemExit(run_dimse(settings))


@app.command()
def migrate(data: Data = None, database_url: DatabaseUrl = None, config: ConfigFile = None) -> None:
    """Bring the database to the version of this program, and say what was done."""
    from api.cli_info import run_migrate

    settings, _ = settings_from(config, data=data, database_url=database_url)
    raise SystemExit(run_migrate(settings))


@app.command("import")
def import_(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, folders and ZIP files.")],
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, metavar="N", help="Files that are read at once.")] = 8,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
    objects: Objects = None,
    config: ConfigFile = None,
) -> None:
    """Store all DICOM files below the paths. Run it again after an interruption: nothing is stored twice."""
    from api.cli_import import run_import_command

    settings, _ = settings_from(config, data=data, database_url=database_url, objects=objects)
    raise SystemExit(run_import_command(settings, paths, jobs=jobs, quiet=quiet))


@app.command()
def status(
    data: Data = None,
    database_url: DatabaseUrl = None,
    objects: Objects = None,
    config: ConfigFile = None,
) -> None:
    """Show what runs, versions, counts and sizes; exit status 1 where something does not answer."""
    from api.cli_info import run_status

    settings, _ = settings_from(config, data=data, database_url=database_url, objects=objects)
    raise SystemExit(run_status(settings))


@app.command()
def fsck(
    deep: Annotated[bool, typer.Option("--deep", help="Read every object and compare its SHA-256.")] = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
    objects: Objects = None,
    config: ConfigFile = None,
) -> None:
    """Compare index and object store; exit status 1 when something is missing, left over or damaged."""
    from api.cli_fsck import run_fsck

    settings, _ = settings_from(config, data=data, database_url=database_url, objects=objects)
    raise SystemExit(run_fsck(settings, deep=deep))


@app.command()
def transcode(
    data: Data = None,
    database_url: DatabaseUrl = None,
    objects: Objects = None,
    config: ConfigFile = None,
) -> None:
    """Apply the rules of the setting `transcode` to everything that is stored, not only to what comes."""
    from api.cli_info import run_transcode

    settings, _ = settings_from(config, data=data, database_url=database_url, objects=objects)
    raise SystemExit(run_transcode(settings))


@app.command("config")
def config_(
    data: Data = None,
    host: Host = None,
    http_port: HttpPort = None,
    dimse_port: DimsePort = None,
    workers: Workers = None,
    aet: Aet = None,
    database_url: DatabaseUrl = None,
    objects: Objects = None,
    insecure: Insecure = None,
    log_level: LogLevel = None,
    config: ConfigFile = None,
) -> None:
    """Show the effective settings and where each comes from; secrets are masked."""
    from api.cli_info import run_config

    settings, origins = settings_from(
        config, data=data, host=host, http_port=http_port, dimse_port=dimse_port, workers=workers, aet=aet,
        database_url=database_url, objects=objects, insecure=insecure, log_level=log_level,
    )  # fmt: skip
    raise SystemExit(run_config(settings, origins))


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
