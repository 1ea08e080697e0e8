"""Attribute names, tags, VRs and levels (PS3.6, PS3.3 C.7): one place that knows which level owns an attribute."""

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Final

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag, tag_for_keyword


class Level(StrEnum):
    """Query/retrieve levels, top down."""

    PATIENT = "patient"
    STUDY = "study"
    SERIES = "series"
    INSTANCE = "instance"

    # That of Enum is a function in Python, and levels are keys of tables that are looked into for every row.
    __hash__ = str.__hash__


def _tags(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Attributes that describe the patient or the study whichever instance carries them: the modules Patient, General Study
# and Patient Study, and the order-level attributes that are returned with a study.
PATIENT_TAGS = _tags(
    """
    00100010 00100020 00100021 00100022 00100024 00100030 00100032 00100033 00100034 00100035 00100040 00100212
    00100213 00100214 00101000 00101001 00101002 00101005 00101060 00101100 00102160 00104000 00102201 00102202
    00102292 00102293 00102294 00102295 00102296 00102297 00102298 00102299
    """
)
STUDY_TAGS = _tags(
    """
    00080020 00080030 00080050 00080051 00080080 00080090 00080096 0008009C 0008009D 00080201 00081030 00081032
    00081048 00081049 00081060 00081062 00081080 00081084 00081110 00101010 00101020 00101021 00101022 00101023
    00101024 00101030 00102000 00102110 00102180 001021A0 001021B0 001021C0 00102203 0020000D 00200010 00321032
    00321033 00321060 00321064 00380010 00380014 00380500 00400012 00401002 00401012
    """
)
SERIES_TAGS = _tags(
    """
    00080021 00080031 00080060 00080068 00080070 00081010 0008103E 0008103F 00081040 00081050 00081052 00081070
    00081072 00081090 00081111 00081250 00180015 00181000 00181020 00181030 00185100 0020000E 00200011 00200052
    00200060 00201040 00400244 00400245 00400250 00400251 00400253 00400254 00400260 00400275 00540081 00540101
    00541000 00181400 00180010 00180024 00181090 00200105 00201002
    """
)
# The modules that identify a level: Patient, General Study, General Series, SOP Common (PS3.3 C.7.1.1, C.7.2.1,
# C.7.3.1, C.12.1).
MODULES: Final[Mapping[Level, frozenset[str]]] = {
    Level.PATIENT: _tags(
        """
        00081120 00100010 00100020 00100021 00100024 00100030 00100032 00100040 00101001 00101002 00102160 00102201
        00102202 00102292 00102293 00102294 00102297 00102298 00102299 00104000 00120062 00120063 00120064
        """
    ),
    Level.STUDY: _tags(
        """
        00080020 00080030 00080050 00080051 00080090 00080096 00081030 00081032 00081048 00081049 00081060 00081062
        00081110 0020000D 00200010 00321034 00401012
        """
    ),
    Level.SERIES: _tags(
        """
        00080021 00080031 00080060 0008103E 0008103F 00081050 00081052 00081070 00081072 00081111 00081250 00102210
        00180015 00181030 00185100 0020000E 00200011 00200060 00400244 00400245 00400253 00400254 00400260 00400275
        00400280
        """
    ),
    Level.INSTANCE: _tags(
        """
        00080005 00080012 00080013 00080014 00080016 00080018 0008001A 0008001B 00080110 00080201 0018A001 00200013
        00280303 0040A390 04000500 04000561 4FFE0001
        """
    ),
}
# Computed by the archive, stored nowhere in a dataset (PS3.18 10.6.3.3, PS3.4 C.3.4).
COMPUTED_TAGS = _tags(
    """
    00080054 00080056 00080061 00080062 00081190 00201200 00201202 00201204 00201206 00201208 00201209
    """
)

_HEX_TAG = re.compile(r"[0-9A-Fa-f]{8}", re.ASCII)


def level_of(tag: str) -> Level:
    """The level that owns `tag` ("00100010"); whatever no upper level owns belongs to the instance."""
    if tag in PATIENT_TAGS:
        return Level.PATIENT
    if tag in STUDY_TAGS:
        return Level.STUDY
    if tag in SERIES_TAGS:
        return Level.SERIES
    return Level.INSTANCE


@lru_cache(maxsize=4096)
def tag_named(name: str) -> str | None:
    """The tag "00100010" of a keyword or of eight hexadecimal digits in any case; None when it is neither."""
    if _HEX_TAG.fullmatch(name):
        return name.upper()
    tag = tag_for_keyword(name) if name else None
    return None if tag is None else f"{tag:08X}"


@lru_cache(maxsize=4096)
def vr_of(tag: str) -> str:
    """The data dictionary's VR ("US or SS" becomes "US", "OB or OW" becomes "OW"), "UN" for what it does not know."""
    number = int(tag, 16)
    if not dictionary_has_tag(number):
        return "LO" if (number >> 16) & 1 and 0x10 <= (number & 0xFFFF) <= 0xFF else "UN"
    vr = dictionary_VR(number)
    return {"OB or OW": "OW", "US or SS": "US", "US or OW": "US", "US or SS or OW": "US"}.get(vr, vr)


@lru_cache(maxsize=4096)
def keyword_of(tag: str) -> str:
    """The keyword, or "" for private and unknown tags."""
    return keyword_for_tag(int(tag, 16))
