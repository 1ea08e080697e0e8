"""De-identification after PS3.15 Annex E."""

from dicomweb.deidentify.profile import Option
from dicomweb.deidentify.pseudonyms import Pseudonyms
from dicomweb.deidentify.rules import deidentification

__all__ = ["Option", "Pseudonyms", "deidentification"]
