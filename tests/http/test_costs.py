"""What each endpoint costs in SQL statements and requests to a real S3: a read is one statement, and one range."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType

import httpx
import pytest
from pydicom import dcmread

from api.app import Anor, create_app
from api.metrics import Metrics
from dimse_bridge.scu import Requestor
from storage.archive import Archive, open_archive
from storage.settings import Settings
from tests.files import compressed, ct, new_uid
from tests.http.bodies import ROOT
from tests.rgw import Rgw

ONE = {"accept": "application/dicom"}
RAW = {"accept": "application/octet-stream; transfer-syntax=*"}
GZIP = {"accept-encoding": "gzip"}
PLAIN = {"accept-encoding": "identity"}


@dataclass
class Served:
    """The application in this process, so that what its archive does can be counted."""

    web: httpx.AsyncClient
    archive: Archive
    series: str
    sops: list[str]

    async def asked(
        self, method: str, url: str, headers: Mapping[str, str] = MappingProxyType({}), content: bytes = b""
    ) -> tuple[httpx.Response, tuple[int, int]]:
        """The answer, and how many statements and requests to the store it took."""
        before = self.archive.db.statements, self._requests()
        answer = await self.web.request(method, url, headers=headers, content=content)
        return answer, (self.archive.db.statements - before[0], self._requests() - before[1])

    def _requests(self) -> int:
        return round(sum(sum(spread[1:]) for spread in self.archive.objects.counts.times.spreads.values()))


@pytest.fixture
async def served(settings: Callable[..., Settings], database_url: str, rgw: Rgw) -> AsyncIterator[Served]:
    made = settings(**rgw.settings(rgw.new_bucket()))
    archive = await open_archive(made)
    requestor = Requestor(archive)
    app: Anor = create_app(made)
    app.open_front(made, archive, requestor, Metrics(made.data / "metrics", 1))
    study, series, sops = new_uid(), new_uid(), [new_uid() for _ in range(3)]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here", timeout=60) as web:
        for number, sop in enumerate(sops):
            file = ct(StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID=sop, InstanceNumber=number)
            answer = await web.post(f"{ROOT}/studies", content=file, headers={"content-type": "application/dicom"})
            assert answer.status_code == 200, answer.text
        yield Served(web, archive, f"{ROOT}/studies/{study}/series/{series}", sops)
    await requestor.close()
    await archive.close()


# What is asked, with which headers; statements; requests to S3.
READS = [
    ("/studies?PatientID=x*", {}, 1, 0),
    ("/series?Modality=CT", {}, 1, 0),
    ("/instances?limit=2&includefield=all", {}, 1, 0),
    ("{study}/series", {}, 1, 0),
    ("{study}/instances", {}, 1, 0),
    ("{series}/instances", {}, 1, 0),
    ("{study}/metadata", GZIP, 1, 0),
    ("{series}/metadata", GZIP, 1, 0),
    ("{series}/metadata", PLAIN, 1, 0),
    ("{instance}/metadata", PLAIN, 1, 0),
    ("{instance}", ONE, 1, 1),
    ("{instance}/frames/1", RAW, 1, 1),
    ("{instance}/bulkdata/7FE00010", RAW, 1, 1),
    ("{series}", {}, 1, 3),
    ("{study}", {}, 1, 3),
]


async def test_reads(served: Served) -> None:
    study = served.series.rpartition("/series/")[0]
    names = {"study": study, "series": served.series, "instance": f"{served.series}/instances/{served.sops[0]}"}
    for path, headers, statements, requests in READS:
        url = path.format(**names) if path.startswith("{") else ROOT + path
        answer, cost = await served.asked("GET", url, headers)
        assert answer.status_code in (200, 204), f"{path}: {answer.text}"
        assert cost == (statements, requests), path
        if "etag" in answer.headers:
            answer, cost = await served.asked("GET", url, headers | {"if-none-match": answer.headers["etag"]})
            assert (answer.status_code, cost) == (304, (1, 0)), path


async def test_writes(served: Served) -> None:
    """An intent, the object, a commit; of a series that the process does not know, what its instances share.

    A file that is there already is found by its intent and looked at; or, where its key was announced ahead, by the
    commit, when it has been put. Once a second, such a file also asks whether any object is noted as damaged. And keys
    for those that follow may be announced meanwhile: one statement for many.
    """
    study, series = new_uid(), new_uid()
    kind = {"content-type": "application/dicom"}
    ahead = 1
    for most in (3 + ahead, 2 + ahead, 2 + ahead):
        file = ct(StudyInstanceUID=study, SeriesInstanceUID=series)
        answer, (statements, requests) = await served.asked("POST", f"{ROOT}/studies", kind, file)
        assert (answer.status_code, requests) == (200, 1)
        assert statements <= most
        answer, (statements, requests) = await served.asked("POST", f"{ROOT}/studies", kind, file)
        assert answer.status_code == 200
        assert 1 <= statements <= 2 + ahead
        assert requests in {1, 2}
    answer, cost = await served.asked("DELETE", f"{ROOT}/studies/{study}")
    assert (answer.status_code, cost) == (204, (1, 0))


async def test_the_last_of_many_frames_costs_what_the_first_does(served: Served) -> None:
    frames = [b"\xff\xd8\xff" + number.to_bytes(4, "big") * 25 + b"\0" for number in range(14_000)]
    file = compressed(frames, "1.2.840.10008.1.2.4.80")
    answer = await served.web.post(f"{ROOT}/studies", content=file, headers={"content-type": "application/dicom"})
    assert answer.status_code in (200, 202), answer.text
    ds = dcmread(BytesIO(file), stop_before_pixels=True)
    path = f"{ROOT}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    for number in (1, 7_000, 14_000):
        before = served.archive.objects.counts.read
        answer, cost = await served.asked("GET", f"{path}/frames/{number}", RAW)
        assert (answer.status_code, cost) == (200, (1, 1))
        assert answer.content == frames[number - 1]
        assert served.archive.objects.counts.read - before == len(frames[number - 1])
