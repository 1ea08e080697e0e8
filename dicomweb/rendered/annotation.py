"""What is drawn over an image: overlay planes, and text where it was asked for (PS3.3 C.9.2, PS3.18 8.3.5.1.1)."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dicomweb.rendered.attributes import Bulk, Item, binary, number, numbers, text

Picture = NDArray[np.uint8]

_GROUPS: Final = range(0x6000, 0x6020, 2)
_MAX_TEXT: Final = 64
_PATIENT: Final = ("00100010", "00100020", "00100030", "00100040")
_TECHNIQUE: Final = ("00080020", "00080060", "0008103E", "00200011", "00200013", "00180050", "00180060", "00181152")


def overlays(dataset: Item, rows: int, columns: int, frame: int, bulk: Bulk) -> Iterator[NDArray[np.bool_]]:
    """The overlay planes of a frame as masks of the image's size; planes that are not whole are left out."""
    for group in _GROUPS:
        data = binary(dataset, f"{group:04X}3000", bulk)
        height, width = number(dataset, f"{group:04X}0010"), number(dataset, f"{group:04X}0011")
        if data is None or not height or not width:
            continue
        high, wide = int(height), int(width)
        plane = _plane(dataset, group, frame)
        if plane is None or not (0 < high < 1 << 16 and 0 < wide < 1 << 16):
            continue
        first, count = plane * high * wide, high * wide
        if (first + count + 7) // 8 > len(data):
            continue
        covering = np.frombuffer(data[first // 8 : (first + count + 7) // 8], np.uint8)
        bits = np.unpackbits(covering, bitorder="little")[first % 8 : first % 8 + count]
        yield _placed(bits.reshape(high, wide).astype(bool), dataset, group, rows, columns)


def _plane(dataset: Item, group: int, frame: int) -> int | None:
    """Which plane of a multi-frame overlay belongs to the frame (PS3.3 C.9.2.1.4)."""
    planes = int(number(dataset, f"{group:04X}0015") or 1)
    origin = int(number(dataset, f"{group:04X}0051") or 1)
    if planes == 1 and number(dataset, f"{group:04X}0051") is None:
        return 0
    place = frame - origin
    return place if 0 <= place < planes else None


def _placed(plane: NDArray[np.bool_], dataset: Item, group: int, rows: int, columns: int) -> NDArray[np.bool_]:
    origin = numbers(dataset, f"{group:04X}0050")
    top, left = (int(origin[0]) - 1, int(origin[1]) - 1) if len(origin) == 2 else (0, 0)
    mask = np.zeros((rows, columns), bool)
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(rows, top + plane.shape[0]), min(columns, left + plane.shape[1])
    if y1 > y0 and x1 > x0:
        mask[y0:y1, x0:x1] = plane[y0 - top : y1 - top, x0 - left : x1 - left]
    return mask


def lines_of(dataset: Item, annotation: frozenset[str]) -> list[str]:
    """The lines to burn in, patient first."""
    tags = (*(_PATIENT if "patient" in annotation else ()), *(_TECHNIQUE if "technique" in annotation else ()))
    return [found[:_MAX_TEXT] for tag in tags if (found := text(dataset, tag).replace("^", " ").strip())]


def written(picture: Picture, lines: list[str]) -> Picture:
    """`lines` in the upper left corner, white on a black edge."""
    if not lines:
        return picture
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    size = max(10, min(24, picture.shape[0] // 24))
    font = ImageFont.load_default(size)
    white, black = (255, 0) if picture.ndim == 2 else ((255, 255, 255), (0, 0, 0))
    draw.multiline_text((4, 4), "\n".join(lines), fill=white, font=font, stroke_width=1, stroke_fill=black)
    return np.asarray(image)
