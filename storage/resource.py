"""A patient, study, series or instance as Orthanc's REST API addresses it."""

from dataclasses import dataclass
from typing import Final, Self

from dicomweb.tags import Level
from dicomweb.uids import parse_orthanc_id

PLURAL: Final[dict[Level, str]] = {
    Level.PATIENT: "patients",
    Level.STUDY: "studies",
    Level.SERIES: "series",
    Level.INSTANCE: "instances",
}
LEVEL_OF: Final[dict[str, Level]] = {plural: level for level, plural in PLURAL.items()}


@dataclass(frozen=True, slots=True)
class Resource:
    """`id`: the digest that the Orthanc identifier spells."""

    level: Level
    id: bytes

    @classmethod
    def of(cls, level: Level, identifier: str) -> Self:
        """The resource with that Orthanc identifier. Raises NotFound for what is no identifier."""
        return cls(level, parse_orthanc_id(identifier))

    @property
    def path(self) -> str:
        """Where the REST API has it."""
        return f"/{PLURAL[self.level]}/{spelled(self.id)}"


def spelled(digest: bytes) -> str:
    """The Orthanc identifier of a digest."""
    return digest.hex("-", 4)
