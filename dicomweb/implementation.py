"""What names this software as the writer of a file or the partner of an association (PS3.10 7.1, PS3.7 D.3.3.2)."""

from typing import Final

# A UUID-derived UID (PS3.5 B.2), made once.
IMPLEMENTATION_CLASS_UID: Final = "2.25.267187264372815911634470301424389520413"
IMPLEMENTATION_VERSION: Final = "ANOR_0.1"
