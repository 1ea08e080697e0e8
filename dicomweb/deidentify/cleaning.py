"""Clean Descriptors (PS3.15 E.3.5): what is left of a text are words known to be safe; everything else goes."""

import re
from collections.abc import Callable
from typing import Final

from dicomweb.deidentify.tables import safe_words
from dicomweb.edit.subject import Subject

_TOKEN: Final = re.compile(r"[^\W_]+(?:[.,][0-9]+)?")
_NUMBER: Final = re.compile(r"[0-9]{1,3}(?:[.,][0-9]{1,3})?(?:mm|cm|ml|mg|kv|ms|s|d|t)?", re.ASCII)
_SEPARATORS: Final = re.compile(r"[\s,;:/|()\[\]{}_+*=.<>-]+")
_SPINE: Final = re.compile(r"[ctls][0-9]{1,2}", re.ASCII)
_MIN_NAME: Final = 2


def _identifiers(subject: Subject) -> frozenset[str]:
    """Every word that identifies somebody in this very file."""
    found = (token.lower() for text in subject.texts.values() for token in _TOKEN.findall(text))
    return frozenset(token for token in found if len(token) >= _MIN_NAME and not token.isdigit())


def cleaner(subject: Subject) -> Callable[[str], str]:
    """What cleans the texts of one file: names, identifiers, dates, numbers of more than three digits are gone then.

    A word that is safe elsewhere goes, too, where it is part of a name or an identifier of the same file ("Dr. Hand").
    """
    known, identifying = safe_words(), _identifiers(subject)

    def is_safe(word: str) -> bool:
        if word in identifying:
            return False
        return word in known or bool(_NUMBER.fullmatch(word) or _SPINE.fullmatch(word))

    def clean(text: str) -> str:
        tokens = [token.strip("\"'!?&#%") for token in _SEPARATORS.split(text)]
        kept = [token for token in tokens if is_safe(token.lower())]
        # Digits that stand together may be a date or a number cut in parts.
        left = [token for at, token in enumerate(kept) if not (token.isdigit() and _beside(kept, at))]
        return text if left == [token for token in tokens if token] else " ".join(left)

    return clean


def _beside(tokens: list[str], at: int) -> bool:
    return any(tokens[other].isdigit() for other in (at - 1, at + 1) if 0 <= other < len(tokens))
