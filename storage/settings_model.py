"""What can be set, once: the table from which flags, `anor config`, documentation and child processes derive.

Import the names from `storage.settings`, which also loads and validates.
"""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from storage.settings_about import GIB, KIB, MIB, PREFIX, About, about
from storage.settings_rest import RestSettings


@dataclass(frozen=True, slots=True)
class Settings(RestSettings):
    """The effective settings of one process. Build it with `load_settings`, which validates; sizes are in bytes."""

    data: Path = field(
        default=Path("anor-data"),
        metadata=about("Server", "Directory of the embedded PostgreSQL, the local object store and spool files."),
    )
    host: str = field(
        default="127.0.0.1",
        metadata=about("Server", "Address that HTTP and DIMSE listen on; beyond loopback only with `insecure`."),
    )
    http_port: int = field(
        default=8042, metadata=about("Server", "TCP port for HTTP; 0 takes a free one.", minimum=0, maximum=65535)
    )
    dimse_port: int = field(
        default=4242, metadata=about("Server", "TCP port for DIMSE; 0 takes a free one.", minimum=0, maximum=65535)
    )
    aet: str = field(default="ANOR", metadata=about("Server", "Our application entity title.", check="aet"))
    workers: int = field(
        default_factory=lambda: len(os.sched_getaffinity(0)),
        metadata=about("Server", "HTTP worker processes on the one port (default: one per core).", minimum=1),
    )
    insecure: bool = field(
        default=False,
        metadata=about("Server", "Allow to listen beyond loopback although nobody has to log in."),
    )
    log_level: Literal["debug", "info", "warning", "error"] = field(
        default="info", metadata=about("Server", "Least severity that is logged.")
    )
    header_timeout: int = field(
        default=30,
        metadata=about(
            "Server",
            "How long a connection may take to send a request's headers, and stay idle between requests.",
            unit="seconds",
            minimum=1,
        ),
    )
    shutdown_timeout: int = field(
        default=60,
        metadata=about("Server", "How long requests in flight may take after SIGTERM.", unit="seconds", minimum=1),
    )

    database_url: str | None = field(
        default=None,
        metadata=about("Database", "PostgreSQL 15 or later (default: the embedded one).", check="dsn", secret=True),
    )
    database_pool: int = field(
        default=8, metadata=about("Database", "Connections per process at most.", minimum=1, maximum=1000)
    )
    database_statement_cache: int = field(
        default=1024,
        metadata=about("Database", "Prepared statements kept per connection; 0 behind pgbouncer.", minimum=0),
    )
    database_timeout: float = field(
        default=30.0, metadata=about("Database", "Longest time of one statement.", unit="seconds", minimum=0.1)
    )
    postgres_bin: Path | None = field(
        default=None,
        metadata=about(
            "Database", "Directory of the PostgreSQL programs for the embedded server (default: the wheel's)."
        ),
    )

    objects: str | None = field(
        default=None,
        metadata=about("Objects", "`s3://bucket/prefix` or a directory (default: DATA/objects).", check="objects"),
    )
    s3_endpoint: str | None = field(
        default=None, metadata=about("Objects", "URL of the S3 service; unset means AWS.", check="url")
    )
    s3_region: str | None = field(default=None, metadata=about("Objects", "S3 region."))
    s3_access_key: str | None = field(
        default=None, metadata=about("Objects", "S3 access key id (default: the usual AWS sources).")
    )
    s3_secret_key: str | None = field(default=None, metadata=about("Objects", "S3 secret key.", secret=True))
    s3_addressing: Literal["path", "virtual"] = field(
        default="path", metadata=about("Objects", "Bucket in the path, or in the host name.")
    )
    s3_sse: str | None = field(
        default=None,
        metadata=about("Objects", "Server-side encryption: `AES256`, `aws:kms` or `aws:kms:KEY-ID`.", check="sse"),
    )
    s3_connect_timeout: float = field(
        default=5.0, metadata=about("Objects", "Connecting to S3.", unit="seconds", minimum=0.1)
    )
    s3_read_timeout: float = field(
        default=30.0, metadata=about("Objects", "One request to S3.", unit="seconds", minimum=0.1)
    )
    s3_retries: int = field(default=3, metadata=about("Objects", "Retries of an S3 request.", minimum=0, maximum=100))
    s3_multipart_size: int = field(
        default=16 * MIB,
        metadata=about("Objects", "Objects above this are uploaded in parts of it.", unit="bytes", minimum=5 * MIB),
    )

    dicomweb_root: str = field(
        default="/dicom-web", metadata=about("Web", "Path under which DICOMweb is served.", check="root")
    )
    public_url: str | None = field(
        default=None,
        metadata=about("Web", "Scheme, host and path under which clients reach us, for URLs in answers.", check="url"),
    )
    trusted_proxies: str = field(
        default="",
        metadata=about("Web", "Proxies whose forwarded headers count: comma-separated networks.", check="networks"),
    )
    cors_origins: str = field(
        default="",
        metadata=about("Web", "Origins that browsers may call from: comma-separated, or `*`.", check="origins"),
    )
    viewer_identifiers: bool = field(
        default=True,
        metadata=about("Web", "Whether the slide viewer shows patient names, and label and overview images."),
    )
    cache_bytes: int = field(
        default=64 * MIB,
        metadata=about("Web", "Memory per process for prepared answers.", unit="bytes", minimum=0),
    )
    qido_default_limit: int = field(
        default=1000, metadata=about("Web", "Results of a search without `limit`.", minimum=1)
    )
    qido_max_limit: int = field(default=10_000, metadata=about("Web", "Results of a search at most.", minimum=1))
    max_frames_per_request: int = field(
        default=1000, metadata=about("Web", "Frames in one request at most.", minimum=1)
    )

    decoders: int = field(
        default=0,
        metadata=about("Pixels", "Decoder processes of all HTTP workers together; 0: one for each core.", minimum=0),
    )
    decoder_memory: int = field(
        default=4 * GIB,
        metadata=about("Pixels", "Address space of a decoder process.", unit="bytes", minimum=512 * MIB),
    )
    decoder_seconds: int = field(
        default=10, metadata=about("Pixels", "Processor time of one frame.", unit="seconds", minimum=1, maximum=3600)
    )

    thumbnail_bytes: int = field(
        default=GIB // 4,
        metadata=about("Pixels", "Thumbnails that are kept under the data directory.", unit="bytes", minimum=0),
    )
    annotation_font: Path | None = field(
        default=None,
        metadata=about(
            "Pixels", "TrueType or OpenType font for annotations, before those that are installed.", check="font"
        ),
    )

    slide_cache_bytes: int = field(
        default=64 * MIB,
        metadata=about(
            "Pixels",
            "Memory per process for what is known of slides, and as much for where their frames lie.",
            unit="bytes",
            minimum=MIB,
        ),
    )
    tile_bytes: int = field(
        default=GIB,
        metadata=about(
            "Pixels", "Tiles of slides that were made and are kept under the data directory.", unit="bytes", minimum=0
        ),
    )
    derive_levels_after_s: int = field(
        default=60,
        metadata=about(
            "Pixels",
            "How long a slide is left alone before its missing coarse levels are made; 0 makes none.",
            unit="seconds",
            minimum=0,
        ),
    )

    slide_folder: Path | None = field(
        default=None,
        metadata=about("Slides", "Slides of scanners that appear below this directory are converted and stored."),
    )
    convert_memory: int = field(
        default=4 * GIB,
        metadata=about("Slides", "Address space of a process that converts a slide.", unit="bytes", minimum=512 * MIB),
    )
    convert_patience: int = field(
        default=300,
        metadata=about("Slides", "A conversion that makes nothing for so long is ended.", unit="seconds", minimum=1),
    )

    jobs_at_once: int = field(
        default=4,
        metadata=about(
            "Slides",
            "Jobs that a worker works on at the same time; of those for slides it is one.",
            minimum=1,
            maximum=64,
        ),
    )
    job_retention_s: int = field(
        default=7 * 86_400,
        metadata=about(
            "Slides", "How long a finished job, and the file that it left, is kept.", unit="seconds", minimum=0
        ),
    )
    job_file_bytes: int = field(
        default=64 * GIB,
        metadata=about(
            "Slides", "Files of finished jobs that are kept; the oldest ones go first.", unit="bytes", minimum=0
        ),
    )

    duplicates: Literal["reject", "keep-first", "replace"] = field(
        default="reject",
        metadata=about("Ingest", "What becomes of an instance that is stored already with other bytes."),
    )
    transcode: str = field(
        default="",
        metadata=about(
            "Ingest",
            "Lossless transfer syntaxes that new instances are kept in, by modality:"
            " `CT,MR=HTJ2KLosslessRPCL; *=received`.",
            check="rules",
        ),
    )
    spool_memory: int = field(
        default=8 * MIB,
        metadata=about("Ingest", "An instance above this is spooled to disk.", unit="bytes", minimum=64 * KIB),
    )
    max_body: int = field(
        default=64 * GIB,
        metadata=about("Ingest", "Body of one request; 0 is unlimited.", unit="bytes", minimum=0),
    )
    max_instance: int = field(default=16 * GIB, metadata=about("Ingest", "One instance.", unit="bytes", minimum=KIB))
    max_parts: int = field(default=10_000, metadata=about("Ingest", "Parts of one multipart body.", minimum=1))
    max_depth: int = field(default=32, metadata=about("Ingest", "Nesting of sequences.", minimum=1, maximum=200))
    max_elements: int = field(
        default=200_000, metadata=about("Ingest", "Data elements outside functional groups.", minimum=1)
    )
    max_fg_elements: int = field(
        default=20_000_000, metadata=about("Ingest", "Data elements in functional groups.", minimum=1)
    )
    max_inflated: int = field(
        default=4 * GIB, metadata=about("Ingest", "A deflated dataset, inflated.", unit="bytes", minimum=KIB)
    )
    max_inflate_ratio: int = field(
        default=200, metadata=about("Ingest", "Inflated to deflated size of a dataset.", minimum=2)
    )
    bulk_threshold: int = field(
        default=KIB,
        metadata=about("Ingest", "Binary values above this are served as bulk data.", unit="bytes", minimum=0),
    )
    metadata_inline_max: int = field(
        default=8 * MIB,
        metadata=about(
            "Ingest", "Compressed metadata above this is an object, not a column.", unit="bytes", minimum=KIB
        ),
    )
    commit_batch: int = field(
        default=200, metadata=about("Ingest", "Instances that one transaction writes at most.", minimum=1)
    )
    intent_lease_s: int = field(
        default=900, metadata=about("Ingest", "Time that a store may take.", unit="seconds", minimum=1)
    )
    sweep_quarantine_s: int = field(
        default=86_400,
        metadata=about("Ingest", "Wait before an abandoned object is deleted.", unit="seconds", minimum=0),
    )
    tomb_grace_s: int = field(
        default=86_400,
        metadata=about("Ingest", "Wait before a deleted instance's object is removed.", unit="seconds", minimum=0),
    )

    ups_retention_s: int = field(
        default=30 * 86_400,
        metadata=about(
            "Worklist", "How long a finished workitem without a deletion lock is kept.", unit="seconds", minimum=0
        ),
    )
    ups_event_retention_s: int = field(
        default=86_400,
        metadata=about("Worklist", "How long an event waits for its subscriber.", unit="seconds", minimum=1),
    )
    ups_events_max: int = field(
        default=10_000, metadata=about("Worklist", "Events that wait for one subscriber at most.", minimum=1)
    )

    mwl_retention_s: int = field(
        default=7 * 86_400,
        metadata=about(
            "Worklist", "How long a finished item of the modality worklist is kept.", unit="seconds", minimum=0
        ),
    )
    mwl_overdue_s: int = field(
        default=30 * 86_400,
        metadata=about(
            "Worklist",
            "How long an unfinished item of the modality worklist is kept after its date and its last change.",
            unit="seconds",
            minimum=3600,
        ),
    )
    mwl_show_finished: bool = field(
        default=False,
        metadata=about("Worklist", "Whether modalities see finished items that they do not ask for by their status."),
    )
    mpps_retention_s: int = field(
        default=90 * 86_400,
        metadata=about(
            "Worklist", "How long a performed procedure step is kept after its last change.", unit="seconds", minimum=0
        ),
    )

    @property
    def objects_location(self) -> str:
        """The `objects` setting with its default filled in."""
        return self.objects if self.objects is not None else str(self.data / "objects")

    @property
    def decoders_per_worker(self) -> int:
        """The share of one HTTP worker in the decoder processes, at least one."""
        return max(1, -(-(self.decoders or os.cpu_count() or 1) // max(1, self.workers)))

    def to_env(self) -> dict[str, str]:
        """The whole value as environment variables: what a child process reads back with `from_env`."""
        return {
            variable(name): as_text(value)
            for name, value in ((setting.name, getattr(self, setting.name)) for setting in table())
            if value is not None
        }


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table of settings."""

    name: str
    type: Any
    about: About
    default: Any

    @property
    def optional(self) -> bool:
        """Whether the setting may be unset."""
        return isinstance(self.type, UnionType)

    @property
    def base_type(self) -> Any:
        """The type without `None`."""
        return next(arg for arg in get_args(self.type) if arg is not type(None)) if self.optional else self.type

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a setting that has a closed set of them."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def _read_table() -> tuple[Setting, ...]:
    hints = get_type_hints(Settings)
    rows = []
    # Inherited fields come last: the documentation begins with the server.
    for each in sorted(dataclasses.fields(Settings), key=lambda field: field.name not in Settings.__annotations__):
        default = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
        rows.append(Setting(each.name, hints[each.name], each.metadata["about"], default))
    return tuple(rows)


_TABLE: Final = _read_table()


def table() -> tuple[Setting, ...]:
    """Every setting, in the order of the documentation."""
    return _TABLE


def as_text(value: object) -> str:
    """The value as an environment variable or a flag spells it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
