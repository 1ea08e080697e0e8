"""How fast C-STORE can be on this machine: DCMTK's own storescp, which neither flushes nor indexes what it receives."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.dimse.programs import storescp

from . import floors, ingest
from .archives import Archive
from .manifest import Manifest
from .report import Figures, Report, metered

_ASSOCIATIONS = (1, 4)


def run(report: Report, manifest: Manifest, only: Callable[[str], bool], work: Path) -> None:
    """Rows of storescp alone, for the same files and the same clients."""
    for kind, label in ingest.LABELS.items():
        test = f"{floors.ingest(label, floors.STORE)} to storescp"
        files = manifest.files(kind)[: ingest.RUN[kind]]
        if only(test):
            for associations in _ASSOCIATIONS:
                report.add(test, associations, {"storescp": _received(files, associations, work / "sink")})


def _received(files: list[Path], associations: int, folder: Path) -> Figures:
    shutil.rmtree(folder, ignore_errors=True)
    with storescp(folder, "--fork") as peer:
        server = Archive("storescp", 0, peer.port, peer.aet, ())
        with metered(server) as cost:
            ingest.send_dimse(server, associations, files)
    stored = len(list(folder.iterdir()))
    shutil.rmtree(folder)
    return Figures(stored / cost.seconds, generator=cost.generator)
