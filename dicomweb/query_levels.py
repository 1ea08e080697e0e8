"""Keys to a Query: which attributes a level is searched by and returns (PS3.4 C.4.1.2.2, C.6; PS3.18 10.6.1.2)."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from dicomweb import tags
from dicomweb.errors import BadQuery
from dicomweb.query import (
    MAX_FIELDS,
    MAX_KEYS,
    TIMEZONE_UNSUPPORTED,
    Key,
    Match,
    Options,
    Path,
    Query,
    bad_key,
    matches_of,
)
from dicomweb.tags import Level
from dicomweb.uids import checked_uid

_DEFAULT = Options()
_ORDER = {level: index for index, level in enumerate(Level)}
_COMPUTED_LEVELS = {
    "00080061": Level.STUDY,
    "00080062": Level.STUDY,
    "00201200": Level.PATIENT,
    "00201202": Level.PATIENT,
    "00201204": Level.PATIENT,
    "00201206": Level.STUDY,
    "00201208": Level.STUDY,
    "00201209": Level.SERIES,
    # What every level has of its own: SpecificCharacterSet, RetrieveAETitle, InstanceAvailability, RetrieveURL.
    "00080005": Level.PATIENT,
    "00080054": Level.PATIENT,
    "00080056": Level.PATIENT,
    "00081190": Level.PATIENT,
}
_MATCHABLE_COMPUTED = frozenset(("00080061", "00080062"))
# Viewers ask studies for the modality of their series; the study's own attribute for it is another one.
_STUDY_LEVEL_OF = {"00080060": "00080061", "00080016": "00080062"}
# Studies and series are found by what lies in them, too: each has an index.
_UIDS_BELOW: dict[Level, frozenset[Path]] = {
    Level.STUDY: frozenset({("0020000E",), ("00080018",)}),
    Level.SERIES: frozenset({("00080018",)}),
}
_CHARACTER_SET, _TIMEZONE = "00080005", "00080201"
# The time that belongs to a date, for ranges of both together.
_TIME_OF = {
    "00080012": "00080013",
    "00080020": "00080030",
    "00080021": "00080031",
    "00080022": "00080032",
    "00080023": "00080033",
    "00181200": "00181201",
    "00320032": "00320033",
    "00400002": "00400003",
    "00400004": "00400005",
    "00400244": "00400245",
    "00400250": "00400251",
    "00402004": "00402005",
}


def level_of_key(tag: str) -> Level:
    """The level that owns the attribute, the computed ones included."""
    return _COMPUTED_LEVELS.get(tag) or tags.level_of(tag)


def _at_level(level: Level, path: Path) -> Path | None:
    """The path as the level has it: itself, its study-level stand-in, or None when it belongs to a lower level."""
    if _ORDER[level_of_key(path[0])] <= _ORDER[level]:
        return path
    if level is Level.STUDY and len(path) == 1 and path[0] in _STUDY_LEVEL_OF:
        return (_STUDY_LEVEL_OF[path[0]],)
    return None


def is_below(level: Level, path: Path) -> bool:
    """Whether the path is the UID of a lower level, by which `level` is searched as what holds such a one."""
    return path in _UIDS_BELOW.get(level, ())


@dataclass(slots=True)
class _Builder:
    level: Level
    options: Options
    matches: dict[Match, None] = field(default_factory=dict)
    fields: dict[Path, None] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)

    def add_key(self, key: Key) -> None:
        if key.path == (_CHARACTER_SET,):  # how the identifier is encoded; never matched (PS3.4 C.2.2.2)
            return
        found, offset = matches_of(key, self.options)
        wanted = [match for match in found if match.kind != "universal"]
        path = _at_level(self.level, key.path)
        if path is not None:
            self.fields[path] = None
        if not wanted:
            return
        if path == (_TIMEZONE,):
            self.warnings[TIMEZONE_UNSUPPORTED] = None
            return
        if is_below(self.level, key.path):
            path = key.path
        tag = key.path[0]
        unknown = tag[:4] in ("0000", "0002") or (tag in _COMPUTED_LEVELS and tag not in _MATCHABLE_COMPUTED)
        if path is None or unknown:
            self._unsupported(key)
            return
        if offset:
            self.warnings[TIMEZONE_UNSUPPORTED] = None
        for match in wanted:
            self.matches[match if match.path == path else replace(match, path=path)] = None

    def _unsupported(self, key: Key) -> None:
        """An unsupported optional key of C-FIND (PS3.4 C.4.1.1.4, 0xFF01) is answered without it, and said so."""
        if self.options.strict:
            raise bad_key(key, "is no attribute that this search can be matched by")
        text = f"The match parameter {key.name} is not supported for this search. It has been ignored."
        self.warnings[text] = None

    def add_field(self, path: Path) -> None:
        # "Instance Level Attributes contained in includefield parameters shall not be returned" (PS3.18 10.6.3.3).
        at_level = _at_level(self.level, path)
        if at_level is not None:
            self.fields[at_level] = None


def _together(matches: Iterable[Match]) -> tuple[Match, ...]:
    """The matches with those of a date and of its time as one: from a time of the first day to a time of the last."""
    found = {match.path: match for match in matches if match.vr in ("DA", "TM") and match.kind in ("range", "exact")}
    joined, gone = {}, set()
    for path, date in found.items():
        tag = _TIME_OF.get(path[-1], "")
        time = found.get((*path[:-1], tag))
        if time is not None:
            low, high = date.values[0], date.values[-1]
            moments = low and low + time.values[0], high and high + (time.values[-1] or "~")
            joined[path] = Match(path, "DT", "range", moments, tag)
            gone.add(time)
    return tuple(joined.get(match.path, match) for match in matches if match not in gone)


def assemble(base: Query, keys: Iterable[Key], *, fields: Iterable[Path] = (), options: Options = _DEFAULT) -> Query:
    """`base` with the matches and fields that the keys and `fields` stand for at its level.

    Keys of upper levels are relational matches, and so are the UIDs of lower ones. Other keys of lower levels, and
    computed ones that cannot be searched, are left out with a warning, or refused (`strict`); Modality and SOPClassUID
    of a study mean ModalitiesInStudy and SOPClassesInStudy. BadQuery and BadRequest name what is wrong.
    """
    if base.study is not None:
        checked_uid(base.study, "StudyInstanceUID")
    if base.series is not None:
        checked_uid(base.series, "SeriesInstanceUID")
    builder = _Builder(base.level, options, warnings=dict.fromkeys(base.warnings))
    for key in keys:
        builder.add_key(key)
    for path in fields:
        builder.add_field(path)
    if len(builder.matches) > MAX_KEYS:
        raise BadQuery(f"the query has more than {MAX_KEYS} match parameters")
    if len(builder.fields) > MAX_FIELDS:
        raise BadQuery(f"the query includes more than {MAX_FIELDS} fields", attribute="includefield")
    matches = _together(builder.matches) if options.date_time else tuple(builder.matches)
    return replace(base, matches=matches, fields=tuple(builder.fields), warnings=tuple(builder.warnings))
