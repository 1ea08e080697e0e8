"""Who asks, and what they may: an argument of every service call."""

from dataclasses import dataclass

from dicomweb.errors import Forbidden

SCOPES = frozenset(
    {
        "dicom.search",
        "dicom.read",
        "dicom.metadata",
        "dicom.write",
        "dicom.delete",
        "jobs.run",
        "jobs.read",
        "metrics.read",
        "system.read",
        "system.admin",
        "worklist.read",
        "worklist.write",
    }
)


@dataclass(frozen=True, slots=True)
class Access:
    """The rights of one caller: the tenant whose rows exist for them, a name for provenance, and scopes."""

    tenant: int
    principal: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raise Forbidden unless the caller holds `scope`."""
        if scope not in self.scopes:
            raise Forbidden(f"the operation needs the scope {scope}")


DEFAULT_TENANT = 1
LOCAL = Access(DEFAULT_TENANT, "local", SCOPES)
