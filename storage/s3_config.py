"""Settings -> the arguments of the two S3 clients: obstore for objects, boto3 for the bucket."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from dicomweb.errors import Unavailable

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_s3.client import S3Client
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential

    from storage.settings import Settings

_ASK_AGAIN: Final = timedelta(minutes=5)


def bucket_and_prefix(address: str) -> tuple[str, str]:
    """Split `s3://bucket/prefix`; the prefix comes without slashes at its ends. Raises ValueError."""
    parts = urlsplit(address)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"not an address of the form s3://bucket/prefix: {address[:120]!r}")
    return parts.netloc, parts.path.strip("/")


def client_config(settings: "Settings", bucket: str) -> "S3Config":
    """Where the bucket is and how requests are signed and encrypted."""
    config: S3Config = {
        "disable_bulk_delete": True,  # single deletes need no Content-MD5, which some services insist on
        "virtual_hosted_style_request": settings.s3_addressing == "virtual",
    }
    endpoint = settings.s3_endpoint
    if settings.s3_access_key and settings.s3_secret_key:
        config["access_key_id"] = settings.s3_access_key
        config["secret_access_key"] = settings.s3_secret_key
    if settings.s3_region:
        config["region"] = settings.s3_region
    if endpoint:
        if settings.s3_addressing == "virtual":
            scheme, _, host = endpoint.partition("://")
            endpoint = f"{scheme}://{bucket}.{host}"
        config["endpoint"] = endpoint.rstrip("/")
    # TLS protects the body already; without it the signature covers the body's SHA-256 (0.3 ms for 500 KB).
    config["unsigned_payload"] = not (endpoint or "https:").startswith("http:")
    if settings.s3_sse:
        kind, _, key_id = _sse(settings.s3_sse)
        config["server_side_encryption"] = kind
        if key_id:
            config["sse_kms_key_id"] = key_id
    return config


def _sse(text: str) -> tuple[str, str, str]:
    """`AES256`, `aws:kms` or `aws:kms:KEY-ID` (a key id may be an ARN with colons)."""
    if text.startswith("aws:kms:"):
        return "aws:kms", ":", text.removeprefix("aws:kms:")
    return text, "", ""


def client_options(settings: "Settings") -> "ClientConfig":
    """Time limits and connections."""
    return {
        "allow_http": (settings.s3_endpoint or "").startswith("http://"),
        "connect_timeout": timedelta(seconds=settings.s3_connect_timeout),
        "read_timeout": timedelta(seconds=settings.s3_read_timeout),
        # The limit of a whole transfer: our own deadlines work per piece, and a slow viewer may take its time.
        "timeout": timedelta(days=1),
        "pool_idle_timeout": timedelta(seconds=20),  # below the idle limit of common servers and balancers
        "user_agent": "anor",
    }


def retry_config(settings: "Settings", deadline: float) -> "RetryConfig":
    """Retries with exponential, jittered pauses that end when the `deadline` (seconds) does."""
    return {
        "max_retries": settings.s3_retries,
        "retry_timeout": timedelta(seconds=deadline),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=min(5.0, deadline / 4)),
            "base": 2,
        },
    }


def credential_source(settings: "Settings") -> "Callable[[], Coroutine[Any, Any, S3Credential]] | None":
    """What obstore asks when the settings hold no keys: whatever boto3 finds (environment, profile, SSO, role, …)."""
    if settings.s3_access_key and settings.s3_secret_key:
        return None
    session: boto3.Session | None = None

    def ask() -> "S3Credential":
        nonlocal session
        import boto3  # noqa: PLC0415

        session = session or boto3.Session()
        found = session.get_credentials()
        if found is None:
            raise Unavailable("there are no credentials for the object store")
        now = found.get_frozen_credentials()
        return {
            "access_key_id": now.access_key or "",
            "secret_access_key": now.secret_key or "",
            "token": now.token,
            "expires_at": datetime.now(UTC) + _ASK_AGAIN,  # boto3 itself renews what expires
        }

    async def credentials() -> "S3Credential":
        return await asyncio.to_thread(ask)  # it may read files or ask a metadata service

    return credentials


def admin_client(settings: "Settings") -> "S3Client":
    """boto3, for what is done to the bucket. Imported late: it costs 0.2 s, and most processes never need it."""
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    client: S3Client = boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=settings.s3_secret_key,
        config=Config(
            connect_timeout=settings.s3_connect_timeout,
            read_timeout=settings.s3_read_timeout,
            retries={"mode": "standard", "max_attempts": settings.s3_retries + 1},
            s3={"addressing_style": settings.s3_addressing},
            # Ceph RGW and others answer 411 to the checksum trailers that newer SDKs send by default.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    return client
