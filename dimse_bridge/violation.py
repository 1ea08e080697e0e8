"""A breach of PS3.7 or PS3.8, which ends the association with an A-ABORT."""

from typing import Final

# Reasons of an A-ABORT by the service provider (PS3.8 table 9-26).
NOT_SPECIFIED: Final = 0
UNRECOGNISED_PDU: Final = 1
UNEXPECTED_PDU: Final = 2
INVALID_VALUE: Final = 6


class Violation(Exception):
    """What the peer did, in our words, and the reason that the A-ABORT gives."""

    def __init__(self, what: str, reason: int = NOT_SPECIFIED) -> None:
        super().__init__(what)
        self.reason = reason
