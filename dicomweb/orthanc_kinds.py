"""Names and numbers of metadata and attachments in Orthanc's REST API: the fixed ones, and those of the settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dicomweb.lists import split_list

# From here on they are the clients' own; what is below belongs to the archive.
FIRST_USER: Final = 1024
LAST_USER: Final = 65535

MODIFIED_FROM: Final = 5
ANONYMIZED_FROM: Final = 6
# What a resource was made from, by another identifier.
ORIGINS: Final[Mapping[str, int]] = {"ModifiedFrom": MODIFIED_FROM, "AnonymizedFrom": ANONYMIZED_FROM}
METADATA: Final[Mapping[str, int]] = {
    "IndexInSeries": 1,
    "ReceptionDate": 2,
    "RemoteAET": 3,
    "ExpectedNumberOfInstances": 4,
    "ModifiedFrom": MODIFIED_FROM,
    "AnonymizedFrom": ANONYMIZED_FROM,
    "LastUpdate": 7,
    "Origin": 8,
    "TransferSyntax": 9,
    "SopClassUid": 10,
    "RemoteIP": 11,
    "CalledAET": 12,
    "HttpUsername": 13,
    "PixelDataOffset": 14,
    "MainDicomTagsSignature": 15,
    "MainDicomSequences": 16,
    "PixelDataVR": 17,
}
DICOM_FILE: Final = 1
ATTACHMENTS: Final[Mapping[str, int]] = {"dicom": DICOM_FILE, "dicom-as-json": 2, "dicom-until-pixel-data": 3}


@dataclass(frozen=True, slots=True)
class Kinds:
    """The names of one sort (metadata, attachments) and what they stand for. `user`: those of the settings."""

    fixed: Mapping[str, int]
    user: Mapping[str, int]

    def number(self, name: str) -> int | None:
        """What a name, or a number as text, stands for; None for an unknown name and a number out of range."""
        found = self.fixed.get(name, self.user.get(name))
        if found is not None:
            return found
        number = int(name) if name.isascii() and name.isdecimal() and len(name) < 6 else 0
        return number if 0 < number <= LAST_USER else None

    def name(self, number: int) -> str:
        """The name, or the number as text where it has none."""
        for names in (self.user, self.fixed):
            for name, each in names.items():
                if each == number:
                    return name
        return str(number)


def parse_kinds(text: str) -> dict[str, int]:
    """`Name=1024,Other=1025` as a mapping. Raises ValueError, which says what is wrong."""
    found: dict[str, int] = {}
    for item in split_list(text):
        name, _, number = (part.strip() for part in item.partition("="))
        if not (name.isascii() and name.replace("-", "").replace("_", "").isalnum() and not name.isdecimal()):
            raise ValueError("a name holds letters, digits, - and _")
        if not (number.isascii() and number.isdecimal() and FIRST_USER <= int(number[:6]) <= LAST_USER):
            raise ValueError(f"the number of {name} is to be from {FIRST_USER} to {LAST_USER}")
        if name in found or int(number) in found.values():
            raise ValueError(f"{name} or its number is given twice")
        if name in METADATA or name in ATTACHMENTS:
            raise ValueError(f"{name} is a name of the archive's own")
        found[name] = int(number)
    return found
