"""Coarse levels that a real worker makes, at every path that knows levels."""

import time
from collections.abc import Iterator
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from dicomweb.uids import orthanc_ids
from tests.http.bodies import store
from tests.support import anor, running_server
from tests.wsi.make_slide import Slide, colour, make_slide
from tests.wsi.variants import Matrix

WIDTH, HEIGHT = 5000, 3300


# What makes levels gives way to everything else on the machine.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server whose worker makes levels at once."""
    data = tmp_path_factory.mktemp("eager")
    with (
        running_server(data, workers=1, derive_levels_after_s=1, tomb_grace_s=0) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        client.headers["x-data"] = str(data)
        yield client


@pytest.fixture(scope="module")
def base_only(eager: httpx.Client) -> Slide:
    """A slide of one level whose coarse ones were made."""
    made = make_slide(WIDTH, HEIGHT, levels=1)
    assert store(eager, *made.files).status_code == 200
    before = eager.get(f"/wsi/slides/{made.series}").json()
    assert [level["stored"] for level in before["levels"]] == [True, False]
    end = time.monotonic() + 60
    while len(eager.get(f"/wsi/slides/{made.series}").json()["levels"]) == 2:
        assert time.monotonic() < end
        time.sleep(0.3)
    # URLs with the version that was before are not taken for the ones of now.
    old = eager.get(before["tiles"].format(level=1, x=0, y=0))
    assert "immutable" not in old.headers["cache-control"]
    return made


def opened(answer: httpx.Response) -> Matrix:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(BytesIO(answer.content)).convert("RGB"))


def place(x: float, y: float) -> Matrix:
    return np.array(colour(x, y, 0))


def test_the_manifest(eager: httpx.Client, base_only: Slide) -> None:
    found = eager.get(f"/wsi/slides/{base_only.series}").json()
    levels = [(one["width"], one["height"], one["stored"], one["derived"]) for one in found["levels"]]
    assert levels == [(5000, 3300, True, False), (1250, 825, False, True), (313, 207, False, True)]
    tile = eager.get(found["tiles"].format(level=2, x=1, y=0))
    assert "immutable" in tile.headers["cache-control"]
    assert tile.headers["content-type"] == "image/jpeg"
    shown = opened(tile)
    assert shown.shape == (256, 256, 3)
    assert np.abs(shown[100, 20] - place(276.5 * 16 / WIDTH, 100.5 * 16 / HEIGHT)).max() < 8
    assert (shown[:, 72:] > 245).all()  # beyond the level
    again = eager.get(tile.url, headers={"If-None-Match": tile.headers["etag"]})
    assert again.status_code == 304


def test_the_whole_in_every_dialect(eager: httpx.Client, base_only: Slide) -> None:
    series = base_only.series
    paths = [
        f"/wsi/slides/{series}/thumbnail?width=250",
        f"/wsi/slides/{series}/region?width=250",
        f"/wsi/iiif/{series}/full/250,/0/default.jpg",
        f"/wsi/deepzoom/{series}_files/8/0_0.jpeg",
    ]
    for path in paths:
        shown = opened(eager.get(path))
        rows, columns = shown.shape[:2]
        for x, y in ((0.1, 0.2), (0.5, 0.5), (0.9, 0.8)):
            found = shown[int(y * rows), int(x * columns)].astype(int)
            assert np.abs(found - place(x, y)).max() < 10, path
    for level in range(14):
        assert eager.get(f"/wsi/deepzoom/{series}_files/{level}/0_0.jpeg").status_code == 200


def test_as_orthanc(eager: httpx.Client, base_only: Slide) -> None:
    first = dcmread(BytesIO(base_only.files[0]))
    ids = orthanc_ids(first.PatientID, base_only.study, base_only.series, first.SOPInstanceUID)
    assert eager.get(f"/wsi/pyramids/{ids.series}").json()["Sizes"] == [[5000, 3300], [1250, 825], [313, 207]]
    raw = eager.get(f"/wsi/tiles/{ids.series}/2/0/0")
    assert raw.content == eager.get(f"/wsi/slides/{base_only.series}/tiles/2/0/0").content


def test_profiles(eager: httpx.Client, base_only: Slide) -> None:
    """The colours of a derived level are those of its frames: the profile of the slide is theirs too."""
    answer = eager.get(f"/wsi/slides/{base_only.series}/tiles/2/0/0?iccprofile=yes")
    assert Image.open(BytesIO(answer.content)).info["icc_profile"]
    assert eager.get(f"/wsi/slides/{base_only.series}/tiles/2/0/0?iccprofile=srgb").status_code == 200


def test_the_check_knows_the_object(eager: httpx.Client, base_only: Slide) -> None:
    assert base_only.series
    checked = anor("fsck", "--deep", data=eager.headers["x-data"])
    assert checked.returncode == 0, checked.stdout
