"""How an instance came into the archive, as it is kept with it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import orjson

Origin = Literal["stow", "rest", "dimse", "import"]


@dataclass(frozen=True, slots=True)
class Provenance:
    """How an instance came: protocol, the peer's address and AE title where there are any, and the title it called.

    Of one that came from another archive, `source`, all this is about how it came there: `principal` is who stored it
    there, `received` (with a time zone) when.
    """

    kind: Origin
    remote: str = ""
    aet: str = ""
    called: str = ""
    principal: str = ""
    received: datetime | None = None
    source: str = ""

    def text(self, principal: str) -> str:
        """As it is kept with the instance that `principal` stored."""
        said = {
            "kind": self.kind, "remote": self.remote, "aet": self.aet, "principal": self.principal or principal,
        }  # fmt: skip
        if self.called:
            said["called"] = self.called
        if self.source:
            said["source"] = self.source
        if self.received is not None:
            said["received"] = self.received.isoformat()
        return orjson.dumps(said).decode()
