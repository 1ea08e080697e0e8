"""Structured reports as HTML (PS3.18 8.7.4, PS3.3 C.17.3): the content tree as nested sections, nothing interpreted.

The page has no script, no style and no reference to anywhere: it may be shown by whoever gets it.
"""

from collections.abc import Callable, Iterator
from html import escape
from typing import Final

from dicomweb.rendered.attributes import Item, items, keyword, text

HTML: Final = "text/html"

# Items nested deeper are named, not shown.
MAX_DEPTH: Final = 48
_HEADINGS: Final = 6
_HAS_OBSERVATION_CONTEXT: Final = "HAS OBS CONTEXT"
_PATIENT: Final = (
    ("Patient", "00100010"),
    ("Patient ID", "00100020"),
    ("Birth date", "00100030"),
    ("Sex", "00100040"),
)
_ABOUT: Final = (
    ("Study", "00081030"),
    ("Content date", "00080023"),
    ("Content time", "00080033"),
    ("Completion", "0040A491"),
    ("Verification", "0040A493"),
)


def is_report_class(sop_class: str) -> bool:
    """Whether instances of the class are content trees: Structured Reporting and Key Object Selection (PS3.4 B.5)."""
    return sop_class.startswith("1.2.840.10008.5.1.4.1.1.88.")


def report_html(dataset: Item, annotation: tuple[str, ...] = ()) -> bytes:
    """The report as a whole HTML page in UTF-8; the patient is named only where `patient` is in `annotation`.

    Linear in the content; every value is escaped.
    """
    title = _concept(dataset) or "Structured report"
    out = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        f"<title>{title}</title></head><body>\n<h1>{title}</h1>\n",
        "<dl>",
    ]
    for label, tag in (*(_PATIENT if "patient" in annotation else ()), *_ABOUT):
        value = text(dataset, tag)
        if value:
            out.append(f"<dt>{label}</dt><dd>{escape(value)}</dd>")
    out.append("</dl>\n")
    _children(dataset, 1, out)
    out.append("</body></html>\n")
    return "".join(out).encode("utf-8", "replace")


def _children(item: Item, depth: int, out: list[str]) -> None:
    children = items(item, "0040A730")
    if not children:
        return
    if depth > MAX_DEPTH:
        out.append("<p>(Content that is nested deeper is left out.)</p>")
        return
    listed = False
    for child in children:
        section = keyword(child, "0040A040") == "CONTAINER"
        if section == listed:
            out.append("</ul>\n" if listed else "<ul>\n")
            listed = not listed
        if section:
            level = min(depth + 1, _HEADINGS)
            out.append(f"<section><h{level}>{_concept(child) or 'Section'}</h{level}>\n")
            _children(child, depth + 1, out)
            out.append("</section>\n")
        else:
            out.append(f"<li>{_line(child)}")
            _children(child, depth + 1, out)
            out.append("</li>\n")
    if listed:
        out.append("</ul>\n")


def _line(item: Item) -> str:
    """Concept name and value of one content item."""
    name, value = _concept(item), _VALUES.get(keyword(item, "0040A040"), _unknown)(item)
    if keyword(item, "0040A010") == _HAS_OBSERVATION_CONTEXT:
        value = f"<em>{value}</em>"
    return f"<b>{name}</b>: {value}" if name else value


def _code(item: Item, tag: str) -> str:
    """Code Meaning, else the code value, of the first item of a code sequence."""
    for code in items(item, tag)[:1]:
        return escape(next((found for key in ("00080104", "00080100", "00080119") if (found := text(code, key))), ""))
    return ""


def _concept(item: Item) -> str:
    return _code(item, "0040A043")


def _text(item: Item) -> str:
    if "BulkDataURI" in item.get("0040A160", {}):
        return "(a long text, which the metadata refer to)"
    return escape(text(item, "0040A160")).replace("\r\n", "\n").replace("\r", "\n").replace("\n", "<br>")


def _number(item: Item) -> str:
    for measured in items(item, "0040A300")[:1]:
        return f"{escape(text(measured, '0040A30A'))} {_code(measured, '004008EA')}".strip()
    return _code(item, "0040A301") or "(no value)"


def _plain(tag: str) -> Callable[[Item], str]:
    return lambda item: escape(text(item, tag))


def _references(item: Item) -> Iterator[str]:
    for reference in items(item, "00081199"):
        frames = text(reference, "00081160")
        yield escape(text(reference, "00081155")) + (f", frames {escape(frames)}" if frames else "")


def _composite(item: Item) -> str:
    return "<br>".join(f"instance {reference}" for reference in _references(item)) or "(no reference)"


def _coordinates(item: Item) -> str:
    points = item.get("00700022", {}).get("Value") or ()
    return f"{escape(text(item, '00700023').lower())} of {len(points)} coordinates"


def _unknown(item: Item) -> str:
    if "0040DB73" in item:
        return f"see item {escape(text(item, '0040DB73').replace(', ', '.'))}"
    return escape(f"({keyword(item, '0040A040').lower() or 'no value'})")


_VALUES: Final[dict[str, Callable[[Item], str]]] = {
    "TEXT": _text,
    "CODE": lambda item: _code(item, "0040A168"),
    "NUM": _number,
    "DATETIME": _plain("0040A120"),
    "DATE": _plain("0040A121"),
    "TIME": _plain("0040A122"),
    "PNAME": _plain("0040A123"),
    "UIDREF": _plain("0040A124"),
    "COMPOSITE": _composite,
    "IMAGE": _composite,
    "WAVEFORM": _composite,
    "SCOORD": _coordinates,
    "SCOORD3D": _coordinates,
    "TCOORD": lambda item: escape(text(item, "0040A130").lower()),
}
