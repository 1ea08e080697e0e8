"""Structured reports as HTML (PS3.3 C.17.3; PS3.18 8.7.4): the content tree as nested lists, every value escaped."""

from collections.abc import Iterator
from html import escape
from typing import Final

from dicomweb.rendered.attributes import Item, items, number, numbers, text

_MAX_DEPTH: Final = 32
_MAX_ITEMS: Final = 50_000
_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#111}"
    "ul{list-style:none;padding-left:1.2rem;border-left:1px solid #ddd}li{margin:.2rem 0}"
    "h1{font-size:1.4rem}dl{display:grid;grid-template-columns:max-content auto;gap:.1rem 1rem}dd{margin:0}"
    "dt,.name{color:#555}"
)
_HEAD: Final = {
    "Patient": "00100010",
    "Patient ID": "00100020",
    "Birth date": "00100030",
    "Study date": "00080020",
    "Study": "00081030",
    "Series": "0008103E",
    "Completion": "0040A491",
    "Verification": "0040A493",
}


def report_html(dataset: Item) -> bytes:
    """The report as one page, UTF-8. Deeper or longer than anybody reads, it is cut and says so."""
    title = _concept(dataset) or text(dataset, "0008103E") or "Report"
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
        for name, tag in _HEAD.items()
        if (value := text(dataset, tag).replace("^", " ").strip())
    )
    budget = [_MAX_ITEMS]
    tree = "".join(_children(dataset, 0, budget))
    cut = "<p>The report is longer than what is shown.</p>" if budget[0] <= 0 else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1><dl>{facts}</dl>{tree}{cut}</body></html>"
    ).encode()


def _children(item: Item, depth: int, budget: list[int]) -> Iterator[str]:
    content = items(item, "0040A730")
    if not content:
        return
    if depth >= _MAX_DEPTH:
        budget[0] = 0
        return
    yield "<ul>"
    for child in content:
        budget[0] -= 1
        if budget[0] < 0:
            break
        name, value = _concept(child), _value(child)
        label = f'<span class="name">{escape(name)}:</span> ' if name and value else escape(name)
        yield f"<li>{label}{escape(value)}"
        yield from _children(child, depth + 1, budget)
        yield "</li>"
    yield "</ul>"


def _concept(item: Item) -> str:
    return next((_meaning(code) for code in items(item, "0040A043")), "")


def _meaning(code: Item) -> str:
    return text(code, "00080104") or text(code, "00080100")


def _value(item: Item) -> str:
    """The value of a content item in words (PS3.3 table C.17.3-7)."""
    kind = text(item, "0040A040")
    plain = {"TEXT": "0040A160", "DATE": "0040A121", "TIME": "0040A122", "DATETIME": "0040A120", "UIDREF": "0040A124"}
    if kind in plain:
        return text(item, plain[kind])
    if kind == "PNAME":
        return text(item, "0040A123").replace("^", " ").strip()
    if kind == "CODE":
        return next((_meaning(code) for code in items(item, "0040A168")), "")
    if kind == "NUM":
        return "; ".join(_measured(value) for value in items(item, "0040A300")) or "no value"
    if kind in ("IMAGE", "COMPOSITE", "WAVEFORM"):
        return ", ".join(_reference(each) for each in items(item, "00081199"))
    if kind in ("SCOORD", "SCOORD3D"):
        points = len(numbers(item, "00700022")) // (3 if kind == "SCOORD3D" else 2)
        return f"{text(item, '00700023').lower()} of {points} points"
    return ""


def _measured(value: Item) -> str:
    amount = number(value, "0040A30A")
    unit = next((text(code, "00080100") for code in items(value, "004008EA")), "")
    return f"{'' if amount is None else format(amount, '.6g')} {'' if unit == '1' else unit}".strip()


def _reference(reference: Item) -> str:
    frames = numbers(reference, "00081160")
    shown = f" frame {', '.join(format(frame, 'g') for frame in frames[:10])}" if frames else ""
    return f"{text(reference, '00081155')}{shown}"
