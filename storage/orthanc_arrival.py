"""What an Orthanc has noted of how and when an instance came to it, as the provenance that is kept here."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from storage.provenance import Origin, Provenance
from storage.resources import ORIGIN_NAMES

# The names that matter; all others are of the file, or of the source's own storage.
ARRIVAL: Final = frozenset(("ReceptionDate", "Origin", "RemoteAET", "RemoteIP", "CalledAET", "HttpUsername"))
_ORIGINS: Final[Mapping[str, Origin]] = {name: kind for kind, name in ORIGIN_NAMES.items()}
_LONGEST: Final = 256  # of an AE title, an address or a name


def provenance(noted: Mapping[str, str], host: str, now: datetime) -> Provenance:
    """How an instance came to the source at `host`; what that did not note, or not in its form, is left out."""
    said = {name: _text(noted.get(name, "")) for name in ARRIVAL}
    return Provenance(
        kind=_ORIGINS.get(said["Origin"], "import"),
        remote=said["RemoteIP"],
        aet=said["RemoteAET"],
        called=said["CalledAET"],
        principal=said["HttpUsername"],
        received=_moment(said["ReceptionDate"], now),
        source=host,
    )


def _text(value: str) -> str:
    return value if len(value) <= _LONGEST and value.isprintable() else ""


def _moment(text: str, now: datetime) -> datetime | None:
    """A time in UTC that has been."""
    try:
        at = datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return at if at <= now else None
