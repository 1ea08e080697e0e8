# ruff: noqa: INP001, T201 - a program, not a module
"""Write the tables of `dicomweb/deidentify` from the standard's own.

    python infra/scripts/confidentiality_tables.py confidentiality_profile_attributes.json EDITION

The first argument is PS3.15 Table E.1-1 as JSON (github.com/innolitics/dicom-standard), EDITION the edition of the
standard that it was taken from. What the attributes are in which IOD (PS3.3) comes with highdicom, the words of PS3.16
with pydicom.
"""

import json
import re
import sys
from collections import defaultdict
from importlib.resources import files
from pathlib import Path

from pydicom.datadict import tag_for_keyword
from pydicom.sr._concepts_dict import concepts

TARGET = Path(__file__).parents[2] / "dicomweb" / "deidentify"
OPTIONS = {
    "rtnSafePrivOpt": "safe_private", "rtnUIDsOpt": "uids", "rtnDevIdOpt": "device", "rtnInstIdOpt": "institution",
    "rtnPatCharsOpt": "patient", "rtnLongFullDatesOpt": "full_dates", "rtnLongModifDatesOpt": "modified_dates",
    "cleanDescOpt": "descriptors", "cleanStructContOpt": "structured_content", "cleanGraphOpt": "graphics",
}  # fmt: skip
TYPES = ("1", "1C", "2", "2C", "3")


def lines(members: dict[str, object]) -> str:
    """A JSON object, one member in each line."""
    return "{\n" + ",\n".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in members.items()) + "\n}"


def profile(rows: list[dict[str, str]]) -> dict[str, object]:
    """Tag ("60XX3000" for repeating groups) -> action codes: of the Basic Profile, and under each option."""
    found: dict[str, object] = {}
    for row in rows:
        tag = "private" if "odd" in row["id"] else row["id"].upper()
        options = {OPTIONS[name]: code for name, code in row.items() if name in OPTIONS}
        found[tag] = [row["basicProfile"], options] if options else [row["basicProfile"]]
    return dict(sorted(found.items()))


def attribute_types(rows: list[dict[str, str]]) -> tuple[dict[str, object], dict[str, object]]:
    """Of attributes whose action depends on it: types by module and path, and the modules of each SOP class."""
    wanted = {int(row["id"], 16) for row in rows if "Z" in row["basicProfile"] or "/" in row["basicProfile"]}
    standard = files("highdicom").joinpath("_standard")
    read = lambda name: json.loads(standard.joinpath(f"{name}.json").read_bytes())  # noqa: E731
    modules: dict[str, dict[str, str]] = defaultdict(dict)
    for module, attributes in read("module_attribute_map").items():
        for attribute in attributes:
            tag = tag_for_keyword(attribute["keyword"])
            path = [tag_for_keyword(keyword) for keyword in attribute["path"]]
            if tag not in wanted or None in path or attribute["type"] not in TYPES:
                continue
            key = "/".join(f"{each:08X}" for each in (*path, tag))
            # A module may list an attribute twice; the stricter type counts.
            modules[module][key] = min(attribute["type"], modules[module].get(key, "3"))
    iods = read("iod_module_map")
    names = sorted(modules)
    classes = {
        uid: sorted(names.index(module["key"]) for module in iods[iod] if module["key"] in modules)
        for uid, iod in sorted(read("sop_class_iod_map").items())
        if iod in iods
    }
    return {name: modules[name] for name in names}, classes


def words() -> list[str]:
    """Words of the meanings of PS3.16's codes: what a description may say without naming anybody."""
    meanings = (meaning for scheme in concepts.values() for codes in scheme.values() for meaning, _ in codes.values())
    return sorted({word.lower() for meaning in meanings for word in re.findall(r"[A-Za-z]{2,}", meaning)})


def main() -> None:
    """Write all three."""
    source, edition = sys.argv[1:]
    rows = json.loads(Path(source).read_bytes())
    text = f'{{"edition":{json.dumps(edition)},\n"attributes":{lines(profile(rows))}}}\n'
    (TARGET / "confidentiality.json").write_text(text)
    modules, classes = attribute_types(rows)
    text = f'{{"modules":{lines(modules)},\n"classes":{lines(classes)}}}\n'
    (TARGET / "attribute_types.json").write_text(text)
    (TARGET / "words.txt").write_text("\n".join(words()) + "\n")
    print(f"{len(rows)} rows, {len(modules)} modules, {len(classes)} SOP classes")


main()
