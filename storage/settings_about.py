"""What a setting says about itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

PREFIX: Final = "ANOR_"


@dataclass(frozen=True, slots=True)
class About:
    """What a setting means and which values it takes; kept in the field's metadata."""

    section: str
    help: str
    unit: Literal["", "bytes", "seconds", "milliseconds"] = ""
    minimum: float | None = None
    maximum: float | None = None
    check: str = ""
    secret: bool = False


def about(
    section: str,
    text: str,
    *,
    unit: Literal["", "bytes", "seconds", "milliseconds"] = "",
    minimum: float | None = None,
    maximum: float | None = None,
    check: str = "",
    secret: bool = False,
) -> Mapping[str, About]:
    """The metadata of a field that is a setting."""
    return MappingProxyType({"about": About(section, text, unit, minimum, maximum, check, secret)})
