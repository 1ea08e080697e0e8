"""Colour profiles: the image's own, and the three that a client may ask for (PS3.18 8.3.5.1.5; ICC.1)."""

from functools import lru_cache
from io import BytesIO
from typing import Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from dicomweb.errors import BadPixels
from dicomweb.rendered.attributes import Bulk, Item, binary, items
from dicomweb.rendered.parameters import Profile

Rgb = NDArray[np.uint8]

# A profile of a display or scanner has kilobytes, with tables a megabyte or two.
_MAX_PROFILE: Final = 8 << 20
# ROMM RGB (ISO 22028-2, ANSI/I3A IT10.7666): primaries in x, y and Y, white D50, gamma 1.8.
_ROMM: Final = (0.7347, 0.2653, 1.0, 0.1596, 0.8404, 1.0, 0.0366, 0.0001, 1.0)
_D50: Final = (0.3457, 0.3585, 1.0)


def profile_of(dataset: Item, bulk: Bulk) -> bytes | None:
    """The ICC profile of an image: ICC Profile (0028,2000), else that of its first optical path."""
    for item in (dataset, *items(dataset, "00480105")[:1]):
        found = binary(item.get("00282000"), bulk)
        if found:
            return found
    return None


def in_profile(array: Rgb, own: bytes | None, wanted: Profile) -> tuple[Rgb, bytes | None]:
    """Pixels (rows, columns, 3) as `wanted` asks, and the profile to embed.

    `yes` leaves the pixels and embeds the image's profile, sRGB when it has none. A name converts from the image's
    profile (sRGB when it has none), perceptually. Raises BadPixels for a profile that is none, or not one of RGB.
    """
    if wanted == "no":
        return array, None
    own = standard_profile("srgb") if own is None else own
    if wanted == "yes":
        _opened(own)
        return array, own
    target = standard_profile(wanted)
    if own != target:
        array = np.asarray(ImageCms.applyTransform(Image.fromarray(array), _transform(own, target)))
    return array, target


@lru_cache(maxsize=4)
def standard_profile(name: Profile) -> bytes:
    """The profile of sRGB (IEC 61966-2-1), Adobe RGB (1998) or ROMM RGB."""
    if name == "rommrgb":
        made = imagecodecs.cms_profile("rgb", whitepoint=_D50, primaries=_ROMM, gamma=1.8)
    else:
        made = imagecodecs.cms_profile(name)
    return bytes(made)


@lru_cache(maxsize=16)
def _transform(own: bytes, target: bytes) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(_opened(own), _opened(target), "RGB", "RGB", ImageCms.Intent.PERCEPTUAL)


def _opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    if len(profile) > _MAX_PROFILE:
        raise BadPixels("the ICC profile is too large", attribute="ICCProfile")
    try:
        opened = ImageCms.ImageCmsProfile(BytesIO(profile))
    except (OSError, ImageCms.PyCMSError):
        raise BadPixels("the ICC profile cannot be read", attribute="ICCProfile") from None
    if opened.profile.xcolor_space.strip() != "RGB":
        raise BadPixels("the ICC profile is not one of RGB", attribute="ICCProfile")
    return opened
