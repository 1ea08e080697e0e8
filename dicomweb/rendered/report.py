"""Structured reports as HTML, plain text or XML (PS3.18 8.7.4, PS3.3 C.17.3): the content tree, nothing interpreted.

The page has no script, no style and no reference to anywhere: it may be shown by whoever gets it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any, Final

from pydicom._uid_dict import UID_dictionary

from dicomweb.charset import DEFAULT, Codecs, codecs_for, decode
from dicomweb.native_xml import native_xml
from dicomweb.notes import Notes
from dicomweb.rendered.attributes import Item, items, keyword, text

HTML: Final = "text/html"
PLAIN: Final = "text/plain"
XML: Final = "text/xml"
REPORT_TYPES: Final = (HTML, PLAIN, XML)

# Items nested deeper are named, not shown.
MAX_DEPTH: Final = 48
# Long texts that the metadata refer to: so many bytes of one are shown, and so many of all.
LONGEST_TEXT: Final = 1 << 20
MAX_TEXTS: Final = 4 << 20
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
_TEXT: Final = "0040A160"
_AVAILABLE_SYNTAX: Final = "00083002"  # in the metadata, but in no file
_CONTENT: Final = "0040A730"
_VERIFYING_OBSERVERS: Final = "0040A073"
_MOMENT: Final = re.compile(
    r"(?P<year>\d{4})(?P<month>\d\d)(?:(?P<day>\d\d)(?P<time>\d{2,6}(?:\.\d{1,6})?)?)?(?P<zone>[+-]\d{4})?", re.ASCII
)
_TIME: Final = re.compile(r"(\d\d)(\d\d)?(\d\d)?(?:\.\d{1,6})?", re.ASCII)

# Texts by the URI that stands in their place in the metadata (PS3.18 F.2.2).
Texts = Mapping[str, str]


def is_report_class(sop_class: str) -> bool:
    """Whether instances of the class are content trees: Structured Reporting and Key Object Selection (PS3.4 B.5)."""
    return sop_class.startswith("1.2.840.10008.5.1.4.1.1.88.")


def long_texts(dataset: Item) -> Iterator[tuple[str, Codecs]]:
    """The URIs of texts that the metadata only refer to, in reading order, and the character sets they are in."""
    return _long_texts(dataset, DEFAULT, 0)


def _long_texts(item: Item, codecs: Codecs, depth: int) -> Iterator[tuple[str, Codecs]]:
    if "00080005" in item:
        terms = "\\".join(str(term or "") for term in item["00080005"].get("Value") or ())
        codecs = codecs_for(terms.encode("latin-1", "replace"), Notes())
    if "BulkDataURI" in item.get(_TEXT, {}):
        yield item[_TEXT]["BulkDataURI"], codecs
    if depth <= MAX_DEPTH:
        for child in items(item, _CONTENT):
            yield from _long_texts(child, codecs, depth + 1)


def text_of(value: bytes, codecs: Codecs, *, cut: bool) -> str:
    """The text of a bulk value; `cut`: it goes on behind these bytes, which may end within a character."""
    found = decode(value.rstrip(b"\0 "), codecs, Notes())
    return found.rstrip("\ufffd") + " … (the rest is left out)" if cut else found


def report_html(dataset: Item, annotation: tuple[str, ...] = (), texts: Texts | None = None) -> bytes:
    """The report as a whole HTML page in UTF-8; the patient is named only where `patient` is in `annotation`.

    Linear in the content; every value is escaped. `texts` are those of `long_texts`.
    """
    title = escape(_title(dataset))
    out = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        f"<title>{title}</title></head><body>\n<h1>{title}</h1>\n",
        "<dl>",
    ]
    out += [f"<dt>{label}</dt><dd>{escape(value)}</dd>" for label, value in _about(dataset, annotation)]
    out.append("</dl>\n")
    _sections(dataset, 1, out, texts or {})
    out.append("</body></html>\n")
    return "".join(out).encode("utf-8", "replace")


def report_text(dataset: Item, annotation: tuple[str, ...] = (), texts: Texts | None = None) -> bytes:
    """The same as plain text in UTF-8, what is nested indented by two blanks."""
    title = _title(dataset)
    out = [title, "=" * min(len(title), 80), *(f"{label}: {value}" for label, value in _about(dataset, annotation)), ""]
    _lines(dataset, 0, out, texts or {})
    return "\n".join((*out, "")).encode("utf-8", "replace")


def report_xml(dataset: Item, texts: Texts | None = None) -> bytes:
    """The whole data set as the Native DICOM Model (PS3.19 A.1), patient included, with the texts of `long_texts`."""
    elements = _filled(dataset, texts or {})
    elements.pop(_AVAILABLE_SYNTAX, None)
    return native_xml(elements)


def _filled(item: Item, texts: Texts) -> dict[str, Any]:
    found = dict[str, Any](item)
    for tag, element in item.items():
        if element.get("BulkDataURI") in texts:
            found[tag] = {"vr": element["vr"], "Value": [texts[element["BulkDataURI"]]]}
        elif element.get("vr") == "SQ" and "Value" in element:
            found[tag] = element | {"Value": [_filled(child or {}, texts) for child in element["Value"]]}
    return found


def _title(dataset: Item) -> str:
    return _code(dataset, "0040A043") or "Structured report"


def _about(dataset: Item, annotation: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for label, tag in (*(_PATIENT if "patient" in annotation else ()), *_ABOUT):
        if value := _readable(dataset, tag):
            yield label, value
    for observer in items(dataset, _VERIFYING_OBSERVERS):
        name = text(observer, "0040A075") or _code(observer, "0040A088")
        who = ", ".join(filter(None, (name, text(observer, "0040A027"), _readable(observer, "0040A030"))))
        if who:
            yield "Verified by", who


# -- the content tree


def _sections(item: Item, depth: int, out: list[str], texts: Texts) -> None:
    children = items(item, _CONTENT)
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
            out.append(f"<section><h{level}>{escape(_code(child, '0040A043') or 'Section')}</h{level}>\n")
            _sections(child, depth + 1, out, texts)
            out.append("</section>\n")
        else:
            out.append(f"<li>{_html_line(child, texts)}")
            _sections(child, depth + 1, out, texts)
            out.append("</li>\n")
    if listed:
        out.append("</ul>\n")


def _html_line(item: Item, texts: Texts) -> str:
    """Concept name and value of one content item."""
    name, value = escape(_code(item, "0040A043")), escape(_value(item, texts)).replace("\n", "<br>")
    if keyword(item, "0040A010") == _HAS_OBSERVATION_CONTEXT:
        value = f"<em>{value}</em>"
    return f"<b>{name}</b>: {value}" if name else value


def _lines(item: Item, depth: int, out: list[str], texts: Texts) -> None:
    children = items(item, _CONTENT)
    indent = "  " * depth
    if children and depth >= MAX_DEPTH:
        out.append(f"{indent}(Content that is nested deeper is left out.)")
        return
    for child in children:
        name = _code(child, "0040A043")
        if keyword(child, "0040A040") == "CONTAINER":
            line = name or "Section"
        else:
            value = _value(child, texts)
            line = f"{name}: {value}" if name else value
        out.append(indent + line.replace("\n", f"\n{indent}  "))
        _lines(child, depth + 1, out, texts)


# -- values


def _value(item: Item, texts: Texts) -> str:
    kind = keyword(item, "0040A040")
    if kind == "TEXT":
        return _text(item, texts).replace("\r\n", "\n").replace("\r", "\n")
    return _VALUES.get(kind, _unknown)(item)


def _code(item: Item, tag: str) -> str:
    """Code Meaning, else the code value, of the first item of a code sequence."""
    for code in items(item, tag)[:1]:
        return next((found for key in ("00080104", "00080100", "00080119") if (found := text(code, key))), "")
    return ""


def _text(item: Item, texts: Texts) -> str:
    uri = item.get(_TEXT, {}).get("BulkDataURI")
    if uri is None:
        return text(item, _TEXT)
    return texts.get(uri, "(a long text, which the metadata refer to)")


def _readable(item: Item, tag: str) -> str:
    """A date, time or both with separators, in the order of ISO 8601; what is none of them as it stands."""
    value = text(item, tag)
    vr = item.get(tag, {}).get("vr")
    if vr == "TM":
        return _clock(value)
    moment = _MOMENT.fullmatch(value) if vr in ("DA", "DT") else None
    if moment is None:
        return value
    zone = moment["zone"] or ""
    date = "-".join(filter(None, moment.group("year", "month", "day")))
    return " ".join(filter(None, (date, _clock(moment["time"] or ""), zone and f"{zone[:3]}:{zone[3:]}")))


def _clock(value: str) -> str:
    found = _TIME.fullmatch(value)
    return ":".join(filter(None, found.groups())) if found else value


def _number(item: Item) -> str:
    for measured in items(item, "0040A300")[:1]:
        return f"{text(measured, '0040A30A')} {_code(measured, '004008EA')}".strip()
    return _code(item, "0040A301") or "(no value)"


def _plain(tag: str) -> Callable[[Item], str]:
    return lambda item: _readable(item, tag)


def _references(item: Item) -> Iterator[str]:
    for reference in items(item, "00081199"):
        kind = UID_dictionary.get(text(reference, "00081150"), ("instance",))[0].removesuffix(" Storage")
        frames = text(reference, "00081160")
        yield f"{kind} {text(reference, '00081155')}" + (f", frames {frames}" if frames else "")


def _composite(item: Item) -> str:
    return "\n".join(_references(item)) or "(no reference)"


def _coordinates(item: Item) -> str:
    points = item.get("00700022", {}).get("Value") or ()
    return f"{text(item, '00700023').lower()} of {len(points)} coordinates"


def _unknown(item: Item) -> str:
    if "0040DB73" in item:
        return f"see item {text(item, '0040DB73').replace(', ', '.')}"
    return f"({keyword(item, '0040A040').lower() or 'no value'})"


_VALUES: Final[dict[str, Callable[[Item], str]]] = {
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
    "TCOORD": lambda item: text(item, "0040A130").lower(),
}
