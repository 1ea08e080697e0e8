"""OHIF over each archive: how long until the first image of a CT series is seen, and until the whole series is there.

The viewer's files always come from Anor; behind one nginx, which also passes DICOMweb on to the archive that is
measured, so that both archives are the same origin and have the same proxy. A headless Chromium draws with the
processor: it and the servers share the machine, and the viewer's own work is most of the time on two cores.
"""

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import Error as BrowserError

from tests.browser.conftest import FLAGS
from tests.browser.series import stack
from tests.files import encoded

from . import load, post
from .archives import DICOMWEB, Archive
from .report import SUBJECT, Figures, Report, say
from .static import nginx

FIRST = "OHIF, first image, s"
FIRST_ASKED = "OHIF, from first DICOMweb request to image, s"
WHOLE = "OHIF, from first DICOMweb request to whole stack, s"
FRAMES = "OHIF, from first frame request to last frame, s"
COST = "OHIF, CPU of the archive for one opening, s"
_SIZE = 512
_PATIENCE = 240_000  # ms
_LOCATIONS = """
  client_max_body_size 0; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
  location / {{ proxy_pass http://127.0.0.1:{viewer}; }}
  location {root}/ {{ proxy_pass http://127.0.0.1:{archive}; }}
"""
# Notes in the page when a viewport has something else than black in its middle.
_WATCH = """
performance.setResourceTimingBufferSize(10000);
localStorage.setItem('shownTours', '["basicViewerTour"]');
const look = () => {
    const canvas = document.querySelector('canvas.cornerstone-canvas');
    if (canvas?.width) {
        const at = canvas.getContext('2d').getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data;
        if (at[0] > 20) { window.seen = performance.now(); return; }
    }
    requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""
_FINISHED = """(count) => window.seen && performance.getEntriesByType('resource')
    .filter((entry) => entry.name.includes('/frames/') && entry.responseEnd).length >= count"""
_TIMES = """() => {
    const asked = performance.getEntriesByType('resource').filter((entry) => entry.name.includes(ROOT));
    const frames = asked.filter((entry) => entry.name.includes('/frames/'));
    return [window.seen, Math.min(...asked.map((entry) => entry.startTime)),
            Math.min(...frames.map((entry) => entry.startTime)), Math.max(...frames.map((entry) => entry.responseEnd))];
}""".replace("ROOT", f"'{DICOMWEB}/'")


@dataclass(frozen=True, slots=True)
class _Times:
    """Milliseconds from the navigation; `cpu` are seconds of the archive's processes."""

    seen: float
    asked: float
    first_frame: float
    last_frame: float
    cpu: float


def run(report: Report, work: Path, slices: int) -> None:
    """Store the series in each archive, then open it in turn. Raises RuntimeError without Anor or Chromium."""
    viewer = next((archive for archive in report.archives if archive.name == SUBJECT), None)
    if viewer is None:
        raise RuntimeError("OHIF is served by Anor: --no-anor leaves nothing to open")
    home = (work / "ohif").resolve()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    study = _store(report.archives, home, slices)
    program = shutil.which("chromium")
    if program is None:
        raise RuntimeError("chromium is not installed")
    runs: dict[str, list[_Times]] = {archive.name: [] for archive in report.archives}
    failed: dict[str, str] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        for _ in range(report.repeats):
            for archive in report.archives:
                locations = _LOCATIONS.format(viewer=viewer.http, archive=archive.http, root=DICOMWEB)
                try:
                    with nginx(home / archive.name, locations) as front:
                        runs[archive.name].append(_open(browser, archive, front.http, study, slices))
                except BrowserError as error:
                    failed[archive.name] = str(error)[:300]
        browser.close()
    _tell(report, runs, failed)
    shutil.rmtree(home)


def _store(archives: Sequence[Archive], home: Path, slices: int) -> str:
    images = stack(slices, _SIZE, noise=20, PatientID="VIEWER", PatientName="Viewer^Vivian")
    files = []
    for number, image in enumerate(images):
        files.append(home / f"{number}.dcm")
        files[-1].write_bytes(encoded(image))
    say(f"{slices} slices, {sum(file.stat().st_size for file in files) / 1e6:.0f} MB")
    for archive in archives:
        jobs = [load.by_stow(files[start : start + 20]) for start in range(0, slices, 20)]
        posted = post.post_all(archive.http, jobs, 2)
        if posted.refused:
            raise RuntimeError(f"{archive.name} refused: {posted.refused[0][:2]}")
    return str(images[0].StudyInstanceUID)


def _open(browser: Browser, archive: Archive, port: int, study: str, slices: int) -> _Times:
    """One opening by somebody who has used the viewer before: its files are in the browser's cache, images are not."""
    base = f"http://127.0.0.1:{port}/ohif"
    with contextlib.closing(browser.new_context(viewport={"width": 1280, "height": 800})) as context:
        page = context.new_page()
        page.goto(f"{base}/viewer?StudyInstanceUIDs=1.2.3", wait_until="load")
        page.wait_for_timeout(5000)
        page.close()
        cpu = archive.cpu()
        page = context.new_page()
        page.add_init_script(_WATCH)
        page.goto(f"{base}/viewer?StudyInstanceUIDs={study}", wait_until="commit")
        page.wait_for_function(_FINISHED, arg=slices, timeout=_PATIENCE)
        return _Times(*page.evaluate(_TIMES), archive.cpu() - cpu)


def _tell(report: Report, runs: dict[str, list[_Times]], failed: dict[str, str]) -> None:
    """A row per time, medians by archive. A rate here is a number of seconds."""

    def middle(values: list[float]) -> Figures:
        return Figures(rate=sorted(values)[len(values) // 2] / 1000)

    measured = {name: times for name, times in runs.items() if times and name not in failed}
    for test, value in (
        (FIRST, lambda times: times.seen),
        (FIRST_ASKED, lambda times: times.seen - times.asked),
        (WHOLE, lambda times: times.last_frame - times.asked),
        (FRAMES, lambda times: times.last_frame - times.first_frame),
        (COST, lambda times: times.cpu * 1000),
    ):
        report.add(test, 1, {name: middle([value(each) for each in times]) for name, times in measured.items()}, failed)
