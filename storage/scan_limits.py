"""What a file may ask for, as the settings say."""

from dicomweb.structure import ScanLimits
from storage.settings import Settings


def scan_limits(settings: Settings) -> ScanLimits:
    """The limits of everything that scans or edits files here."""
    return ScanLimits(
        max_depth=settings.max_depth,
        max_elements=settings.max_elements,
        max_fg_elements=settings.max_fg_elements,
        bulk_threshold=settings.bulk_threshold,
        max_inflated=settings.max_inflated,
        max_inflate_ratio=settings.max_inflate_ratio,
    )
