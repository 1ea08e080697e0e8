"""Settings of HTTP's limits and of metrics; `settings_model.Settings` has them all."""

from dataclasses import dataclass, field

from storage.settings_about import GIB, KIB, MIB, about


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What requests may need, and where processes without HTTP tell what they counted."""

    metrics_port: int | None = field(
        default=None,
        metadata=about(
            "Server",
            "TCP port for `/metrics` and `/healthz` of `anor dimse` and `anor worker` (default: none); 0 takes a free"
            " one.",
            minimum=0,
            maximum=65535,
        ),
    )
    max_headers: int = field(
        # The HTTP server itself refuses more than a hundred.
        default=100,
        metadata=about("Web", "Header fields of one request at most.", minimum=20, maximum=100),
    )
    max_header_bytes: int = field(
        default=32 * KIB,
        metadata=about(
            "Web", "Header fields of one request together.", unit="bytes", minimum=4 * KIB, maximum=256 * KIB
        ),
    )
    max_query_bytes: int = field(
        # The HTTP server itself refuses longer URLs.
        default=64 * KIB,
        metadata=about("Web", "The query string of one request, encoded.", unit="bytes", minimum=KIB, maximum=64 * KIB),
    )
    max_query_parameters: int = field(
        default=1000,
        metadata=about("Web", "Parameters of one query string.", minimum=20, maximum=32_768),
    )
    max_json: int = field(
        default=16 * MIB,
        metadata=about(
            "Web", "JSON that a request to the REST API brings.", unit="bytes", minimum=64 * KIB, maximum=256 * MIB
        ),
    )
    max_create_json: int = field(
        default=64 * MIB,
        metadata=about(
            "Web",
            "JSON that `/tools/create-dicom` takes: it has whole files in base64.",
            unit="bytes",
            minimum=64 * KIB,
            maximum=GIB,
        ),
    )
    max_part_headers: int = field(
        default=16, metadata=about("Web", "Header fields of one part of a multipart body.", minimum=4, maximum=100)
    )
    max_part_header_bytes: int = field(
        default=8 * KIB,
        metadata=about(
            "Web", "One header field of a part of a multipart body.", unit="bytes", minimum=256, maximum=64 * KIB
        ),
    )
    min_body_rate: int = field(
        default=KIB,
        metadata=about(
            "Web",
            "Bytes per second of a request's body; what stays below it for 30 seconds is refused. 0: any pace will do.",
            unit="bytes",
            minimum=0,
            maximum=MIB,
        ),
    )
