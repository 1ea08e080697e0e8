"""What an application entity may ask of this archive."""

from typing import Final

PERMISSIONS: Final = frozenset({"echo", "store", "find", "get", "move", "worklist", "mpps", "commitment"})
