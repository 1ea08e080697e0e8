"""Settings of the Orthanc-style REST API; `settings_model.Settings` has them all."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from storage.settings_about import GIB, MIB, about
from storage.settings_outgoing import OutgoingSettings


@dataclass(frozen=True, slots=True)
class RestSettings(OutgoingSettings):
    """What can be set for scripts and clients that were written for Orthanc."""

    stable_age_s: int = field(
        default=60,
        metadata=about(
            "REST",
            "How long nothing may come to a series, study or patient until it is announced as stable.",
            unit="seconds",
            minimum=0,
        ),
    )
    user_metadata: str = field(
        default="",
        metadata=about("REST", "Names of metadata, with numbers from 1024 on: `ward=1024,room=1025`.", check="kinds"),
    )
    user_attachments: str = field(
        default="",
        metadata=about("REST", "Names of attachments, with numbers from 1024 on: `report=1024`.", check="kinds"),
    )
    check_revisions: bool = field(
        default=False,
        metadata=about("REST", "Whether metadata and attachments are overwritten or deleted with `If-Match` only."),
    )
    log_exports: bool = field(
        default=False, metadata=about("REST", "Whether what is sent to others is listed in `/exports`.")
    )
    transfer_bytes: int = field(
        default=64 * GIB,
        metadata=about(
            "REST",
            "Files of transfers that come in buckets (`/transfers`) and are not stored yet: all of them together.",
            unit="bytes",
            minimum=MIB,
        ),
    )
    scripts: Literal["refuse", "ignore"] = field(
        default="refuse",
        metadata=about(
            "REST", "What becomes of Lua sent to `/tools/execute-script`: a 403, or an empty answer. It never runs."
        ),
    )
    maximum_storage_size: int = field(
        default=0,
        metadata=about("REST", "Bytes that stored files may take together; 0: no limit.", unit="bytes", minimum=0),
    )
    maximum_patient_count: int = field(
        default=0, metadata=about("REST", "Patients that may be stored; 0: no limit.", minimum=0)
    )
    maximum_storage_mode: Literal["recycle", "reject"] = field(
        default="recycle",
        metadata=about(
            "REST",
            "Beyond these limits: `recycle` deletes the patients that changed longest ago and are not protected,"
            " `reject` takes no more files.",
        ),
    )
    orthanc_user: str | None = field(
        default=None, metadata=about("Migration", "User name for the Orthanc that is imported from (HTTP Basic).")
    )
    orthanc_password: str | None = field(
        default=None, metadata=about("Migration", "Password of that user.", secret=True)
    )
    orthanc_token_file: Path | None = field(
        default=None, metadata=about("Migration", "File with a bearer token for that Orthanc, instead of a user.")
    )
    orthanc_ca_file: Path | None = field(
        default=None,
        metadata=about("Migration", "Authorities that sign that Orthanc's certificate (default: the system's)."),
    )
