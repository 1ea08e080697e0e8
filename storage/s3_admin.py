"""What is done to a bucket rather than to objects, through boto3: set-up, lifecycle, versions, exposure, stray uploads.

All functions block and raise Unavailable; the archive calls them from threads, the command line directly.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Literal

from dicomweb.errors import Unavailable
from storage.s3_config import admin_client, bucket_and_prefix
from storage.s3_errors import reason_of

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import LifecycleRuleUnionTypeDef

    from storage.settings import Settings

RULE_ID: Final = "anor-abort-incomplete-uploads"
ABORT_AFTER_DAYS: Final = 2
_PUBLIC_GROUPS: Final = ("/groups/global/AllUsers", "/groups/global/AuthenticatedUsers")
_ABSENT: Final = frozenset(
    {"NoSuchLifecycleConfiguration", "NoSuchBucketPolicy", "NoSuchPublicAccessBlockConfiguration"}
)
_UNKNOWN: Final = frozenset({"NotImplemented", "MethodNotAllowed", "MalformedXML", "InvalidArgument"})


class S3Admin:
    """The administrator's view of the bucket that `settings.objects` names."""

    def __init__(self, settings: "Settings") -> None:
        self.bucket, self.prefix = bucket_and_prefix(settings.objects or "")
        self._settings = settings
        self._lock = threading.Lock()
        self._client: S3Client | None = None

    def ensure_bucket(self, *, create: bool) -> bool:
        """True when the bucket had to be made. Raises Unavailable when it is missing and `create` is false."""
        with _translated():
            client = self._s3()
            try:
                client.head_bucket(Bucket=self.bucket)
            except client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] not in {"404", "NoSuchBucket"}:
                    raise
            else:
                return False
            if not create:
                raise Unavailable(f"the bucket {self.bucket} does not exist")
            region = self._settings.s3_region
            if region and region != "us-east-1" and self._settings.s3_endpoint is None:
                client.create_bucket(Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": region})  # type: ignore[typeddict-item]  # any region
            else:
                client.create_bucket(Bucket=self.bucket)
            return True

    def set_lifecycle(
        self, *, abort_after_days: int = ABORT_AFTER_DAYS, expire_versions_days: int | None = None
    ) -> None:
        """Have the service abort uploads that were never completed, and optionally expire old versions.

        Rules of others are kept. Ours applies to the archive's prefix alone.
        """
        rule: LifecycleRuleUnionTypeDef = {
            "ID": RULE_ID,
            "Status": "Enabled",
            "Filter": {"Prefix": f"{self.prefix}/" if self.prefix else ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": abort_after_days},
        }
        if expire_versions_days is not None:
            rule["NoncurrentVersionExpiration"] = {"NoncurrentDays": expire_versions_days}
        with _translated():
            client = self._s3()
            rules: list[LifecycleRuleUnionTypeDef] = []
            try:
                rules.extend(client.get_bucket_lifecycle_configuration(Bucket=self.bucket)["Rules"])
            except client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] not in _ABSENT:
                    raise
            rules = [each for each in rules if each.get("ID") != RULE_ID]
            client.put_bucket_lifecycle_configuration(
                Bucket=self.bucket, LifecycleConfiguration={"Rules": [*rules, rule]}
            )

    def versioning(self) -> bool:
        """Whether the bucket keeps old versions now."""
        with _translated():
            return self._s3().get_bucket_versioning(Bucket=self.bucket).get("Status") == "Enabled"

    def set_versioning(self, *, enabled: bool) -> None:
        """Keep (or stop keeping) old versions; those that are there stay."""
        status: Literal["Enabled", "Suspended"] = "Enabled" if enabled else "Suspended"
        with _translated():
            self._s3().put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": status})

    def public_access(self) -> list[str]:
        """Why strangers may be able to read the bucket; empty when the service reports no way.

        Looks at the access control list, and at the policy (unless AWS blocks public access altogether).
        """
        with _translated():
            client = self._s3()
            grants = client.get_bucket_acl(Bucket=self.bucket).get("Grants", [])
            found = [
                f"the access control list grants {grant.get('Permission')} to {uri.rpartition('/')[2]}"
                for grant in grants
                if (uri := grant.get("Grantee", {}).get("URI", "")).endswith(_PUBLIC_GROUPS)
            ]
            try:
                status = client.get_bucket_policy_status(Bucket=self.bucket)
                if status["PolicyStatus"].get("IsPublic"):
                    found.append("the bucket policy is public")
            except client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] not in _ABSENT | _UNKNOWN:
                    raise
            return found

    def abort_uploads(self, key: str) -> int:
        """Abort the multipart uploads of exactly this key; how many there were."""
        full = f"{self.prefix}/{key}" if self.prefix else key
        count = 0
        with _translated():
            client = self._s3()
            for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=full):
                for upload in page.get("Uploads", []):
                    if upload.get("Key") == full:
                        client.abort_multipart_upload(Bucket=self.bucket, Key=full, UploadId=upload["UploadId"])
                        count += 1
        return count

    def close(self) -> None:
        """Close the connections, if there are any."""
        if self._client is not None:
            self._client.close()

    def _s3(self) -> "S3Client":
        """Made at the first use: importing boto3 costs 0.2 s, and most processes never need it."""
        with self._lock:
            if self._client is None:
                self._client = admin_client(self._settings)
            return self._client


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        yield
    except ClientError as error:
        raise Unavailable(
            f"the object store refuses the request: {reason_of(error.response['Error']['Code'])}"
        ) from error
    except BotoCoreError as error:
        raise Unavailable(f"the object store cannot be reached ({type(error).__name__})") from error
