"""Where the acceptor puts what a C-STORE brings: the archive, or the spool of a gateway."""

from typing import Protocol

from storage.access import Access
from storage.ingest import Provenance
from storage.spool import Spool, Spooled


class Sink(Protocol):
    """Takes complete instances; what `store` has returned for is durable."""

    def new_spool(self) -> Spool:
        """Where the bytes of one incoming instance go; what it raises, as `store`, is in the table of `status`."""

    async def store(self, access: Access, spooled: Spooled, source: Provenance) -> object:
        """Keep one complete instance and release its spool. Raises ArchiveError."""
