"""Rules that say in which transfer syntax instances are kept, by their modality."""

from dataclasses import dataclass
from typing import Final

# Lossless ones alone: what is kept may not be less than what was sent. Keywords of PS3.6 A.
LOSSLESS: Final = {
    "ExplicitVRLittleEndian": "1.2.840.10008.1.2.1",
    "RLELossless": "1.2.840.10008.1.2.5",
    "JPEGLossless": "1.2.840.10008.1.2.4.57",
    "JPEGLosslessSV1": "1.2.840.10008.1.2.4.70",
    "JPEGLSLossless": "1.2.840.10008.1.2.4.80",
    "JPEG2000Lossless": "1.2.840.10008.1.2.4.90",
    "JPEGXLLossless": "1.2.840.10008.1.2.4.110",
    "JPEGXLJPEGRecompression": "1.2.840.10008.1.2.4.111",
    "HTJ2KLossless": "1.2.840.10008.1.2.4.201",
    "HTJ2KLosslessRPCL": "1.2.840.10008.1.2.4.202",
}
_AS_RECEIVED: Final = "received"


@dataclass(frozen=True, slots=True)
class Rule:
    """`modalities`: empty stands for all of them. `target`: a transfer syntax UID, "" leaves what was received."""

    modalities: frozenset[str]
    target: str


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Rules as a setting spells them: `CT,MR=HTJ2KLosslessRPCL; US=received; *=JPEGLSLossless`.

    Raises ValueError, which says what is wrong.
    """
    return tuple(_parse(item.strip()) for item in text.split(";") if item.strip())


def _parse(item: str) -> Rule:
    left, equals, right = (part.strip() for part in item.partition("="))
    modalities = frozenset(name.strip() for name in left.split(","))
    if not equals or not all(name == "*" or (name.isalnum() and name == name.upper()) for name in modalities):
        raise ValueError(f"{item!r} is not MODALITY,MODALITY=TRANSFERSYNTAX")
    if right == _AS_RECEIVED:
        target = ""
    elif right in LOSSLESS.values():
        target = right
    elif right in LOSSLESS:
        target = LOSSLESS[right]
    else:
        raise ValueError(f"{right!r} is not {_AS_RECEIVED} or one of {', '.join(LOSSLESS)}")
    return Rule(frozenset() if "*" in modalities else modalities, target)


def wanted(rules: tuple[Rule, ...], modality: str) -> str:
    """The target of the first rule for `modality`, "" when there is none."""
    for rule in rules:
        if not rule.modalities or modality in rule.modalities:
            return rule.target
    return ""
