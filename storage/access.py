"""Who asks, and what they may: an argument of every service call."""

from dataclasses import dataclass, replace

from dicomweb.errors import Forbidden

SCOPES = frozenset(
    {
        "dicom.search",
        "dicom.read",
        "dicom.metadata",
        "dicom.write",
        "dicom.delete",
        "dimse.admin",
        "dimse.read",
        "dimse.run",
        "jobs.run",
        "jobs.read",
        "metrics.read",
        "remotes.admin",
        "remotes.read",
        "remotes.run",
        "system.read",
        "system.admin",
        "worklist.read",
        "worklist.write",
    }
)


@dataclass(frozen=True, slots=True)
class Access:
    """The rights of one caller: the tenant whose rows exist for them, a name for provenance, and scopes.

    `labels`: of the studies that exist for them, each of which has all of these; what they store gets them.
    """

    tenant: int
    principal: str
    scopes: frozenset[str]
    labels: tuple[str, ...] = ()

    def require(self, *scopes: str) -> None:
        """Raise Forbidden unless the caller holds one of `scopes`."""
        if self.scopes.isdisjoint(scopes):
            raise Forbidden(f"the operation needs the scope {' or '.join(scopes)}")

    def with_scope(self, scope: str) -> "Access":
        """The same caller with one more scope: for what a service has to look at itself to do what they may."""
        return self if scope in self.scopes else replace(self, scopes=self.scopes | {scope})


DEFAULT_TENANT = 1
LOCAL = Access(DEFAULT_TENANT, "local", SCOPES)
