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
    GatewayTo,
    Host,
    HttpPort,
    Insecure,
    LogLevel,
    Objects,
    StatusPort,
    Workers,
    fail,
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
    """Run the background work alone: change numbers, sweeping, transcoding by rule, jobs."""
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
    """Run the DIMSE service alone."""
    from api.cli_serve import run_dimse

    settings, _ = settings_from(
        config, data=data, host=host, dimse_port=dimse_port, aet=aet, database_url=database_url, objects=objects,
        insecure=insecure, log_level=log_level,
    )  # fmt: skip
    raise SystemExit(run_dimse(settings))


@app.command("dimse-user")
def dimse_user(name: Annotated[str, typer.Argument(help="The user's name.")]) -> None:
    """Ask for a passcode, and print the line of this user for the file of the setting `dimse_users`."""
    from api.cli_serve import run_dimse_user

    raise SystemExit(run_dimse_user(name))


@app.command()
def gateway(
    to: GatewayTo = None,
    data: Data = None,
    host: Host = None,
    dimse_port: DimsePort = None,
    status_port: StatusPort = None,
    aet: Aet = None,
    insecure: Insecure = None,
    log_level: LogLevel = None,
    retry_rejected: Annotated[
        bool, typer.Option("--retry-rejected", help="Send what was set aside again, once, at the start.")
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Run a gateway: receive by DIMSE, keep on disk, forward to an archive by STOW-RS. Needs no database."""
    from api.cli_gateway import run_gateway

    settings, _ = settings_from(
        config, gateway_to=to, data=data, host=host, dimse_port=dimse_port, gateway_status_port=status_port, aet=aet,
        insecure=insecure, log_level=log_level,
    )  # fmt: skip
    raise SystemExit(run_gateway(settings, retry_rejected=retry_rejected))


@app.command()
def migrate(data: Data = None, database_url: DatabaseUrl = None, config: ConfigFile = None) -> None:
    """Bring the database to the version of this program, and say what was done."""
    from api.cli_info import run_migrate

    settings, _ = settings_from(config, data=data, database_url=database_url)
    raise SystemExit(run_migrate(settings))


@app.command("import")
def import_(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH...", help="Files, folders and ZIP files.", show_default=False)
    ] = None,
    from_orthanc: Annotated[
        str | None, typer.Option("--from-orthanc", metavar="URL", help="Copy all that the Orthanc there has.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare what is here already with that Orthanc, too.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, metavar="N", help="Files that are read at once.")] = 8,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
    objects: Objects = None,
    insecure: Insecure = None,
    config: ConfigFile = None,
) -> None:
    """Store all DICOM files below the paths. Run it again after an interruption: nothing is stored twice."""
    settings, _ = settings_from(config, data=data, database_url=database_url, objects=objects, insecure=insecure)
    if bool(paths) == (from_orthanc is not None) or (verify and from_orthanc is None):
        fail("import takes paths, or --from-orthanc (and --verify with it)", 2)
    if from_orthanc is not None:
        from api.cli_migration import run_migration

        raise SystemExit(run_migration(settings, from_orthanc, jobs=jobs, verify=verify, quiet=quiet))
    from api.cli_import import run_import_command

    raise SystemExit(run_import_command(settings, paths or [], jobs=jobs, quiet=quiet))


@app.command()
def dicomize(
    slides: Annotated[
        list[Path],
        typer.Argument(metavar="SLIDE...", help="Files of scanners, pictures; folders of DICOM to --deidentify."),
    ],
    to: Annotated[str | None, typer.Option("--to", metavar="URL", help="DICOMweb root to send to (STOW-RS).")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write files there instead.")] = None,
    header: Annotated[list[str] | None, typer.Option("--header", metavar="NAME: VALUE", help="For --to.")] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="keep (copy tiles where possible), jpeg, none; jpeg2000, htj2k, jpegls, jpegxl, also with -lossless.",
        ),
    ] = "keep",
    copy: Annotated[bool, typer.Option(help="Copy the source's tiles where they can be frames.")] = True,
    quality: Annotated[int, typer.Option("--quality", metavar="N", help="Of JPEG, 1 to 100.")] = 90,
    subsampling: Annotated[str, typer.Option("--subsampling", help="Of chroma in JPEG: 420, 422, 444.")] = "422",
    tile: Annotated[int, typer.Option("--tile", metavar="N", help="Side of the tiles (default: the source's).")] = 0,
    pyramid: Annotated[
        str, typer.Option("--pyramid", help="source, apex (and smaller ones), full (powers of two), rebuilt.")
    ] = "apex",
    levels: Annotated[str | None, typer.Option("--levels", metavar="N,N", help="Only these; 0 is the finest.")] = None,
    offsets: Annotated[str, typer.Option("--offsets", help="Offset table: basic, extended, empty.")] = "basic",
    instance_bytes: Annotated[
        int, typer.Option("--instance-bytes", metavar="N", help="A larger level becomes a concatenation.")
    ] = 0,
    instance_frames: Annotated[
        int, typer.Option("--instance-frames", metavar="N", help="The same, by the number of frames.")
    ] = 0,
    split: Annotated[
        str, typer.Option("--split", help="An instance for each of the paths, planes, or both; or none.")
    ] = "none",
    icc: Annotated[
        str, typer.Option("--icc", metavar="NAME|FILE", help="Colour profile: source, srgb, adobergb, rommrgb, a file.")
    ] = "source",
    label: Annotated[bool, typer.Option(help="Keep the image of the label.")] = True,
    label_image: Annotated[
        Path | None, typer.Option("--label-image", metavar="FILE", help="A picture in place of the label.")
    ] = None,
    overview: Annotated[bool, typer.Option(help="Keep the image of the whole slide.")] = True,
    overview_part: Annotated[
        str | None,
        typer.Option("--overview-part", metavar="LEFT,TOP,WIDTH,HEIGHT", help="Only this part of it, in percent."),
    ] = None,
    thumbnail: Annotated[bool, typer.Option(help="Keep the source's thumbnail.")] = True,
    deidentify: Annotated[
        bool, typer.Option("--deidentify", help="Nothing but pixels; no label, of the overview --overview-part.")
    ] = False,
    mpp: Annotated[
        float, typer.Option("--mpp", metavar="UM", help="Micrometres a pixel, where the file is silent.")
    ] = 0.0,
    origin: Annotated[
        str | None, typer.Option("--origin", metavar="X,Y", help="Where on the glass the image begins, in mm.")
    ] = None,
    study: Annotated[str, typer.Option("--study", metavar="UID", help="Study Instance UID.")] = "",
    series: Annotated[str, typer.Option("--series", metavar="UID", help="Series Instance UID.")] = "",
    name: Annotated[str, typer.Option("--name", help="Container Identifier (default: the name of the file).")] = "",
    metadata: Annotated[
        Path | None, typer.Option("--metadata", metavar="FILE", help="JSON: attributes by keyword.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
    objects: Objects = None,
    config: ConfigFile = None,
) -> None:
    """Convert slides of scanners to DICOM: into the archive, with --to into another one, with --out into a folder."""
    from api.cli_dicomize import run_dicomize

    settings, _ = settings_from(config, data=data, database_url=database_url, objects=objects)
    given: dict[str, object] = {
        "format": format_, "copy": copy, "quality": quality, "subsampling": subsampling, "tile": tile,
        "pyramid": pyramid, "offsets": offsets, "instance_bytes": instance_bytes, "instance_frames": instance_frames,
        "split": split, "label": label, "overview": overview, "thumbnail": thumbnail, "deidentify": deidentify,
        "mpp": mpp, "study": study, "series": series, "name": name,
    }  # fmt: skip
    lists = {"levels": levels, "overview_part": overview_part, "origin": origin}
    given |= {name: text for name, text in lists.items() if text is not None}
    raise SystemExit(
        run_dicomize(
            settings,
            slides,
            given,
            to=to,
            out=out,
            metadata=metadata,
            label_image=label_image,
            icc=icc,
            headers=header or [],
            dry_run=dry_run,
            quiet=quiet,
        )
    )


@app.command()
def export(
    series: Annotated[str, typer.Argument(metavar="SERIES", help="Series Instance UID of a slide.")],
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The TIFF file to write.")],
    plain: Annotated[
        bool, typer.Option("--plain", help="A generic pyramid of one channel and plane instead of OME-TIFF.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
    objects: Objects = None,
    config: ConfigFile = None,
) -> None:
    """Write a slide to a pyramidal OME-TIFF file; JPEG frames are copied."""
    from api.cli_export import run_export

    settings, _ = settings_from(config, data=data, database_url=database_url, objects=objects)
    raise SystemExit(run_export(settings, series, path, plain=plain, quiet=quiet))


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
