"""The VR of an element that does not say it: Implicit VR, and UN where the dictionary knows better (PS3.5 6.2.2).

The dictionaries, public and private, are pydicom's.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from pydicom.datadict import dictionary_VR, private_dictionary_VR

from dicomweb.values import LONG_VRS, SHORT_VRS

PIXEL_REPRESENTATION = 0x00280103
LUT_DESCRIPTOR = 0x00283002
# Key under which an item remembers the Pixel Representation of the data sets around it.
INHERITED = -1

# What has been read so far of a data set and decides VRs further down: private creators by their tag, Pixel
# Representation, the first value of LUT Descriptor.
State = dict[int, str | int]
Need = tuple[int, str | int | None]


class Unsure(Exception):
    """The VR cannot be told with what a single pass has seen; pydicom is asked instead."""


class Resolved(NamedTuple):
    """A VR and the facts that it rests on: `needs` holds (key of the state, value); none means that it always holds."""

    vr: str
    needs: tuple[Need, ...] = ()


def _usable(vr: str) -> str:
    """A VR of PS3.5 6.2 or a choice of several; a few entries of the dictionaries are neither."""
    return vr if vr in SHORT_VRS or vr in LONG_VRS or " or " in vr else "UN"


@lru_cache(maxsize=8192)
def public_vr(tag: int) -> str:
    """The dictionary's VR, maybe an ambiguous one ("US or SS"); UL for group lengths, UN for what is not in it."""
    try:
        return _usable(str(dictionary_VR(tag)))
    except KeyError:
        return "UL" if tag & 0xFFFF == 0 else "UN"


@lru_cache(maxsize=8192)
def private_vr(tag: int, creator: str) -> str:
    """The VR that pydicom's private dictionary gives, else UN."""
    try:
        return _usable(str(private_dictionary_VR(tag, creator)))
    except KeyError:
        return "UN"


def creator_tag(tag: int) -> int:
    """Of the element that reserves the block of a private tag (PS3.5 7.8.1)."""
    return tag & 0xFFFF0000 | (tag & 0xFFFF) >> 8


def is_creator(tag: int) -> bool:
    """Whether the tag is a private creator's: (odd group, 0010-00FF)."""
    return bool(tag & 0x10000) and 0x10 <= tag & 0xFFFF <= 0xFF


def resolve(tag: int, length: int, state: Mapping[int, str | int], *, explicit: bool) -> Resolved:
    """The VR of an implicit element, or (`explicit`) of one that is encoded as UN.

    A public element stays UN when it is too long for a 16-bit length: then UN was the only choice its writer had.
    """
    if tag & 0x10000:
        if is_creator(tag):
            return Resolved("LO")
        key = creator_tag(tag)
        creator = state.get(key) if tag & 0xFF00 else None
        vr = private_vr(tag, creator) if isinstance(creator, str) and creator else "UN"
        return _settle(tag, vr, state, ((key, creator),), explicit=explicit)
    if explicit and length >= 0xFFFF:
        return Resolved("UN")
    return _settle(tag, public_vr(tag), state, (), explicit=explicit)


def _settle(tag: int, vr: str, state: Mapping[int, str | int], needs: tuple[Need, ...], *, explicit: bool) -> Resolved:
    """An ambiguous VR made definite (PS3.5 A.1, PS3.6 note to table 6-1)."""
    if " or " not in vr:
        return Resolved(vr, needs)
    if explicit:
        return Resolved("UN", needs)
    if vr == "US or SS":
        own = state.get(PIXEL_REPRESENTATION)
        if own is None and tag < PIXEL_REPRESENTATION:
            raise Unsure("ambiguous VR before Pixel Representation")
        inherited = state.get(INHERITED)
        signed = own if own is not None else inherited
        facts: tuple[Need, ...] = (
            ((PIXEL_REPRESENTATION, own),)
            if own is not None
            else ((PIXEL_REPRESENTATION, None), (INHERITED, inherited))
        )
        return Resolved("SS" if signed else "US", needs + facts)
    if tag == 0x00283006:
        entries = state.get(LUT_DESCRIPTOR)
        return Resolved("US" if entries == 1 else "OW", ((LUT_DESCRIPTOR, entries),))
    return Resolved("OW", needs)
