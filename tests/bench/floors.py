"""The floors that Anor must reach, as a table, and the verdict on a run's rows.

A ratio counts only from one run with both archives on the same machine. `best` is the faster of Orthanc's two indexes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .report import SUBJECT, Row, say

Against = Literal["pg", "sqlite", "best", "nginx"]


@dataclass(frozen=True, slots=True)
class AtLeast:
    """Anor's rate (or MB/s for equal bytes) is at least `factor` times the other's."""

    test: str
    connections: int
    against: Against
    factor: float


@dataclass(frozen=True, slots=True)
class AtMost:
    """Anor's own figure stays at or below `limit`: `p50` or `p99` in ms, or the `rate` of rows that are one value."""

    test: str
    connections: int
    figure: Literal["p50", "p99", "rate"]
    limit: float


Floor = AtLeast | AtMost

# names of tests, used by the modules that run them
CT, SMALL = "ct 530 KB", "tiny"
POST, STOW, STORE = "POST /instances", "STOW 10 a request", "C-STORE"
BY_PATIENT, SERIES_OF = "search studies by PatientID", "search series of a study"
BY_DATE, BY_NAME = "search studies by date range", "search studies by name wildcard"
PAGE, ALL_FIELDS = "search page of 100 studies", "search instances of a series, all fields"
FIRST, WARM, GZIP = "metadata of a series, first time", "metadata of a series", "metadata of a series, gzip"
ONE = "metadata of an instance"
FRAME_CT, FRAME_JPEG, FRAME_RGB = "frame CT 512 KB", "frame JPEG, one of 200", "frame RGB 768 KB, one of 60"
RENDERED_JPEG, RENDERED_PNG = "rendered CT, JPEG", "rendered CT, PNG"
J2K_FIRST = "frame JPEG 2000 to native, first time"
J2K_AGAIN = "frame JPEG 2000 to native, again"
J2K_HELD = "frame JPEG 2000 to native, from caches"
SLIDE_FRAME, SLIDE_TILE = "slide tile as WADO-RS frame", "slide tile"
SLIDE_FRESH, SLIDE_MANIFEST = "slide tile, first time", "slide manifest, first time"
FIND_PATIENT, FIND_DATE = "C-FIND studies by PatientID", "C-FIND studies by date range"
FIND_IMAGES = "C-FIND images of a series"
GET_SERIES, GET_SMALL = "C-GET series of 100 x 525 KB", "C-GET series of tiny instances"
REST_STUDY, REST_TAGS = "GET /studies/{id}", "GET /instances/{id}/tags"
REST_FIND = "tools/find, 500 studies described"
REST_ZIP, REST_ZIP_FIRST = "archive of 500 CT", "archive of 500 CT, first byte"
REST_DELETE = "delete a study of 2,000 instances"
SERIES_BYTES = "series of 100 x 525 KB"
NEARLY_EMPTY = " (nearly empty archive)"
FULL = " (full archive)"
STATIC = "series, against nginx's static files"
START_FIRST, START_WARM = "start to ready, first time (s)", "start to ready, warm (s)"
GROWTH_IN, GROWTH_OUT = "memory growth, 200 MiB in (MiB)", "memory growth, 200 MiB out (MiB)"
IDLE = "idle memory of all processes (MiB)"


def ingest(kind: str, mode: str) -> str:
    """The name of an ingest test."""
    return f"ingest {kind}, {mode}"


def _storing(state: str) -> tuple[Floor, ...]:
    """Of storing into archives that are empty or full; Orthanc's SQLite is at its best in an empty one."""
    factors = (
        (CT, STOW, 4, 2.5, 1),
        (CT, POST, 8, 2.5, 1),
        (SMALL, STOW, 4, 8, 1.5),
        (SMALL, POST, 8, 8, 1.5),
        (CT, STORE, 1, 2, 1),
        (CT, STORE, 4, 3, 1),
        (SMALL, STORE, 1, 4, 1.5),
        (SMALL, STORE, 4, 4, 1.5),
    )
    return tuple(
        AtLeast(ingest(kind, mode) + state, connections, against, factor)
        for kind, mode, connections, pg, sqlite in factors
        for against, factor in (("pg", pg), ("sqlite", sqlite))
    )


FLOORS: tuple[Floor, ...] = (
    *_storing(""),
    *_storing(FULL),
    *(AtLeast(test, 1, "best", 5) for test in (FIND_PATIENT, FIND_DATE)),
    AtLeast(GET_SERIES, 1, "best", 1.5),
    AtLeast(BY_PATIENT, 8, "best", 8),
    AtLeast(SERIES_OF, 8, "best", 8),
    AtLeast(BY_DATE, 8, "best", 30),
    AtLeast(BY_NAME, 8, "best", 30),
    AtLeast(PAGE, 8, "best", 30),
    AtLeast(ALL_FIELDS, 8, "best", 30),
    *(AtMost(test, 8, "p99", 20) for test in (BY_PATIENT, SERIES_OF, BY_DATE, BY_NAME, PAGE, ALL_FIELDS)),
    AtLeast(FIRST, 1, "best", 10),
    AtLeast(WARM, 8, "best", 1.5),
    AtLeast(GZIP, 8, "best", 5),
    AtLeast(ONE, 8, "best", 12),
    AtLeast(FRAME_CT, 8, "best", 4),
    AtLeast(FRAME_JPEG, 8, "best", 4),
    AtLeast(FRAME_RGB, 8, "best", 2.5),
    AtLeast(RENDERED_JPEG, 8, "best", 2),
    AtLeast(RENDERED_PNG, 8, "best", 10),
    AtLeast(J2K_FIRST, 8, "best", 2),
    AtLeast(J2K_HELD, 8, "best", 2),
    AtLeast(FRAME_CT + NEARLY_EMPTY, 8, "sqlite", 2),
    AtLeast(FRAME_JPEG + NEARLY_EMPTY, 8, "sqlite", 2),
    AtLeast(SERIES_BYTES, 4, "best", 2),
    *(AtLeast(test, 1, "best", 5) for test in (REST_STUDY, REST_TAGS, REST_FIND)),
    AtLeast(REST_ZIP, 1, "best", 2),
    AtMost(REST_ZIP_FIRST, 1, "p50", 100),
    AtMost(REST_DELETE, 1, "p50", 1000),
    AtLeast(SLIDE_FRAME, 8, "best", 2.5),
    AtLeast(SLIDE_TILE, 8, "best", 0.3),
    AtMost(SLIDE_TILE, 1, "p50", 1),
    AtLeast(SLIDE_FRESH, 8, "best", 5),
    AtLeast(SLIDE_MANIFEST, 1, "best", 20),
    AtLeast(STATIC, 4, "nginx", 0.5),
    AtMost(START_FIRST, 1, "rate", 5),
    AtMost(START_WARM, 1, "rate", 2),
    AtMost(GROWTH_IN, 1, "rate", 64),
    AtMost(GROWTH_OUT, 1, "rate", 64),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a floor asked and what the run gave; `value` is None when the run has no such figure."""

    floor: Floor
    value: float | None

    @property
    def passed(self) -> bool:
        """Whether the floor is reached; a missing figure is not."""
        if self.value is None:
            return False
        return self.value >= self.floor.factor if isinstance(self.floor, AtLeast) else self.value <= self.floor.limit


def judge(rows: Sequence[Row]) -> list[Verdict]:
    """A verdict for every floor, in the table's order; of rows with the same name the last counts."""
    found = {(row.test, row.connections): row for row in rows}
    return [Verdict(floor, _value(floor, found.get((floor.test, floor.connections)))) for floor in FLOORS]


def _value(floor: Floor, row: Row | None) -> float | None:
    if row is None or SUBJECT not in row.medians:
        return None
    if isinstance(floor, AtMost):
        return float(getattr(row.medians[SUBJECT], floor.figure))
    if floor.against == "best":
        return min(row.ratios.values()) if {"sqlite", "pg"} <= row.ratios.keys() else None
    return row.ratios.get(floor.against)


def show(verdicts: Sequence[Verdict], *, all_floors: bool = True) -> bool:
    """Print the table; True when every floor that was measured (or simply every one) is reached."""
    wanted = [verdict for verdict in verdicts if all_floors or verdict.value is not None]
    if not wanted:
        return True
    say()
    for verdict in wanted:
        floor = verdict.floor
        if isinstance(floor, AtLeast):
            asked = f">= {floor.factor:g}x {floor.against}"
            got = "not measured" if verdict.value is None else f"{verdict.value:.2f}x"
        else:
            asked = f"<= {floor.limit:g}{'' if floor.figure == 'rate' else f' ms {floor.figure}'}"
            got = "not measured" if verdict.value is None else f"{verdict.value:.2f}"
        mark = "pass" if verdict.passed else "FAIL" if verdict.value is not None else "-"
        say(f"{mark:5s} {floor.test:48s} c{floor.connections:<2d} {asked:18s} {got}")
    passed = sum(verdict.passed for verdict in wanted)
    say(f"{passed} of {len(wanted)} floors reached")
    return passed == len(wanted)
