"""One frame, from decoded pixels to a picture: the pipelines in their order (PS3.4 N.2, PS3.18 8.3.5.1)."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicomweb.pixels.image import MONOCHROME, ImagePixel, Pixels
from dicomweb.rendered.annotation import draw_overlays, draw_text
from dicomweb.rendered.attributes import Bulk, Item
from dicomweb.rendered.colour import render_colour
from dicomweb.rendered.encode import encode_image
from dicomweb.rendered.geometry import aspect_of, fit
from dicomweb.rendered.grayscale import Grayscale, render_grayscale
from dicomweb.rendered.lettering import Face
from dicomweb.rendered.parameters import Rendering
from dicomweb.rendered.profiles import in_profile, profile_of

# Changes whenever the same request gives other bytes than before: a part of entity tags and of the keys of caches.
REVISION: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A frame and what is known of it. `number`: of the frame, from 1. `bulk`: the values that it refers to.

    `faces`: the fonts that text is drawn with.
    """

    pixels: Pixels
    image: ImagePixel
    dataset: Item
    number: int
    bulk: Bulk
    faces: tuple[Face, ...] = ()


def picture(source: Source, wanted: Rendering) -> tuple[NDArray[np.uint8], bytes | None]:
    """(rows, columns) of shades or (rows, columns, 3) of RGB, and the ICC profile to embed.

    Raises BadPixels for what cannot be shown, BadQuery for a region outside the image. Memory: about four times that of
    the decoded frame.
    """
    image, dataset = source.image, source.dataset
    shown, profile = whole(source, wanted)
    if wanted.annotation:
        shown = np.array(shown)  # drawn on: decoded RGB is the stored bytes themselves
        draw_overlays(shown, source.pixels.array, image, dataset, source.number, source.bulk)
    shown = fit(shown, wanted, aspect_of(dataset, source.number))
    return draw_text(shown, dataset, wanted.annotation, source.faces) if wanted.annotation else shown, profile


def whole(source: Source, wanted: Rendering) -> tuple[NDArray[np.uint8], bytes | None]:
    """The same of all pixels, as many as they are, with nothing drawn on them. Raises BadPixels."""
    image, dataset = source.image, source.dataset
    profile = None
    if source.pixels.photometric in MONOCHROME:
        gray = Grayscale.of(dataset, source.number, image, source.bulk, wanted.window)
        shown = render_grayscale(source.pixels.array, gray)
    else:
        shown = render_colour(source.pixels, image, dataset, source.bulk)
        if wanted.iccprofile != "no":
            shown, profile = in_profile(shown, profile_of(dataset, source.bulk), wanted.iccprofile)
    return shown, profile


def render_image(source: Source, wanted: Rendering, media_type: str) -> bytes:
    """A frame as the file of an image. CPU only: to be called in a thread; NumPy and the encoders release the GIL."""
    shown, profile = picture(source, wanted)
    return encode_image(shown, media_type, wanted.quality, profile)
