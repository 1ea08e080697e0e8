"""What is drawn on an image when it is asked for: overlay planes and text (PS3.18 8.3.5.1.1, PS3.3 C.9.2)."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dicomweb.errors import BadPixels
from dicomweb.pixels.image import ImagePixel
from dicomweb.rendered.attributes import Bulk, Item, binary, number, numbers, text
from dicomweb.rendered.lettering import Face, Lettering

Shown = NDArray[np.uint8]

_PATIENT: Final = (("", "00100010"), ("ID ", "00100020"), ("born ", "00100030"), ("sex ", "00100040"))
_TECHNIQUE: Final = (
    ("", "00080060"),
    ("", "00080070"),
    ("kV ", "00180060"),
    ("mA ", "00181151"),
    ("ms ", "00181150"),
    ("TR ", "00180080"),
    ("TE ", "00180081"),
    ("slice mm ", "00180050"),
    ("position mm ", "00201041"),
)
# Longer values and smaller images have no place for text.
_LINE: Final = 64
_SMALLEST: Final = 96


def draw_overlays(shown: Shown, stored: NDArray[Any], image: ImagePixel, dataset: Item, frame: int, bulk: Bulk) -> None:
    """Paint the overlay planes of a frame (from 1) white on `shown`, an array in the image's own geometry.

    Planes of their own bits, and retired ones within the bits of pixels that Bits Stored leaves free. Raises BadPixels
    for a plane with less data than it says.
    """
    for group in range(0x6000, 0x6020, 2):
        rows, columns = (number(dataset, f"{group:04X}{tag}") for tag in ("0010", "0011"))
        if rows is None or columns is None:
            continue
        plane = _plane(dataset, group, frame, (int(rows), int(columns)), bulk)
        if plane is None:
            plane = _embedded(dataset, group, stored, image)
        if plane is not None:
            _paint(shown, plane, numbers(dataset, f"{group:04X}0050"))


def _plane(dataset: Item, group: int, frame: int, shape: tuple[int, int], bulk: Bulk) -> NDArray[np.uint8] | None:
    """(rows, columns) of 0 and 1; None when the group has no data of its own or none for this frame."""
    data = binary(dataset.get(f"{group:04X}3000"), bulk)
    if data is None:
        return None
    size = shape[0] * shape[1]
    if min(shape) <= 0:
        raise BadPixels("an overlay has no rows or no columns", attribute="OverlayRows")
    frames = int(number(dataset, f"{group:04X}0015") or 1)
    origin = int(number(dataset, f"{group:04X}0051") or 1)
    at = frame - origin if f"{group:04X}0015" in dataset else 0
    if not 0 <= at < frames:
        return None
    if len(data) * 8 < (at + 1) * size:
        raise BadPixels("an overlay has less data than its rows and columns say", attribute="OverlayData")
    first, shift = divmod(at * size, 8)
    piece = np.frombuffer(data, np.uint8)[first : first + (shift + size + 7) // 8]
    return np.unpackbits(piece, bitorder="little")[shift : shift + size].reshape(shape)


def _embedded(dataset: Item, group: int, stored: NDArray[Any], image: ImagePixel) -> NDArray[np.uint8] | None:
    place = int(number(dataset, f"{group:04X}0102") or 0)
    if stored.ndim != 2 or not image.bits_stored <= place < image.bits_allocated <= 16:
        return None
    return ((stored >> place) & 1).astype(np.uint8)


def _paint(shown: Shown, plane: NDArray[np.uint8], origin: list[float]) -> None:
    """Overlay Origin (row, column) is where the first pixel of the plane lies, from 1; it may be negative."""
    down, right = (int(value) - 1 for value in origin[:2]) if len(origin) >= 2 else (0, 0)
    target = shown[max(0, down) : max(0, down + plane.shape[0]), max(0, right) : max(0, right + plane.shape[1])]
    source = plane[max(0, -down) :, max(0, -right) :][: target.shape[0], : target.shape[1]]
    target[source != 0] = 255


def draw_text(shown: Shown, dataset: Item, wanted: tuple[str, ...], faces: tuple[Face, ...] = ()) -> Shown:
    """The image with text in its upper corners: `patient` on the left, `technique` on the right.

    Nothing of a patient is drawn unless `patient` is among `wanted`. Where both have no place side by side, the
    technique stands below the patient. Lines that are too wide are cut, those below the image left out.
    """
    height, width = shown.shape[:2]
    if min(height, width) < _SMALLEST:
        return shown
    image = Image.fromarray(shown)
    draw = ImageDraw.Draw(image)
    size = max(10, min(height, width) // 40)
    letters, edge = Lettering(faces, size), max(2, size // 3)
    rows = (height - 2 * edge) // letters.height
    room = width - 2 * edge
    patient = _lines(dataset, _PATIENT, letters, room) if "patient" in wanted else []
    technique = _lines(dataset, _TECHNIQUE, letters, room) if "technique" in wanted else []
    beside = room - max(map(letters.width, patient), default=0) - size
    below = 0 if max(map(letters.width, technique), default=0) <= beside else len(patient)
    for row, line in enumerate(patient[:rows]):
        letters.draw(draw, edge, edge + row * letters.height, line)
    for row, line in enumerate(technique[: max(0, rows - below)], below):
        letters.draw(draw, width - edge - letters.width(line), edge + row * letters.height, line)
    return np.asarray(image)


def _lines(dataset: Item, fields: tuple[tuple[str, str], ...], letters: Lettering, room: float) -> list[str]:
    lines = []
    for label, tag in fields:
        value = "".join(c if c.isprintable() else " " for c in text(dataset, tag)[:_LINE])
        if value:
            lines.append(letters.fitted(letters.drawable(label + value), room))
    return lines
