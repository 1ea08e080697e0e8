"""Which instance stands for a study or series, and what is answered where none can."""

from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.files import compressed, dataset, encoded, new_uid
from tests.http.bodies import ROOT, store
from tests.http.test_rendered import MP4, NO_PIXELS, document, gradient, kept, path_of, pixels, refused, report
from tests.wsi import variants
from tests.wsi.variants import Series, instance, tiles_of

JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
ACCEPTS = ("*/*", "image/png", "text/html", "image/jp2")


def without_pixels(**attributes: Any) -> bytes:
    """An instance of CT Image Storage without pixel data and their description, as test sets have them."""
    return encoded(dataset(**NO_PIXELS | attributes))


def broken(**attributes: Any) -> bytes:
    """A CT image whose only frame is no JPEG."""
    return compressed([b"\xff\xd8\xff\xc3" + bytes(300)], JPEG_LOSSLESS, Rows=64, Columns=64, **attributes)


def places(file: bytes) -> tuple[str, str, str]:
    """The paths of an instance, its series and its study."""
    path = path_of(file)
    return path, path.partition("/instances")[0], path.partition("/series")[0]


def test_images_without_pixel_data_are_no_images(web: httpx.Client) -> None:
    same = {"StudyInstanceUID": new_uid(), "SeriesInstanceUID": new_uid()}
    alone = without_pixels(InstanceNumber=1, **same)
    assert store(web, alone, without_pixels(InstanceNumber=2, **same)).status_code == 202
    instance, series, study = places(alone)
    for place in (instance, series, study):
        for resource in ("thumbnail", "rendered"):
            for accept in ACCEPTS:
                refused(web.get(f"{place}/{resource}", headers={"Accept": accept}), 404, "not-found")
    refused(web.get(f"{instance}/frames/1/rendered"), 404, "not-found")
    # one image with pixels at the end, and it is what is shown
    assert store(web, encoded(gradient(InstanceNumber=3, **same))).status_code == 200
    for place in (series, study):
        assert pixels(web.get(f"{place}/thumbnail?accept=image/png")).shape == (256, 256)


def test_a_broken_image_gives_way_to_another(web: httpx.Client) -> None:
    same = {"StudyInstanceUID": new_uid(), "SeriesInstanceUID": new_uid()}
    middle = broken(InstanceNumber=2, **same)
    files = encoded(gradient(InstanceNumber=1, **same)), middle, encoded(gradient(InstanceNumber=3, **same))
    assert store(web, *files).status_code == 200
    instance, series, study = places(middle)
    for place in (series, study):
        answer = web.get(f"{place}/thumbnail?accept=image/png")
        assert pixels(answer).shape == (256, 256)
        tag = {"If-None-Match": answer.headers["etag"]}
        assert web.get(f"{place}/thumbnail?accept=image/png", headers=tag).status_code == 304
    refused(web.get(f"{instance}/thumbnail"), 422, "bad-pixels")


def test_a_broken_series_gives_way_to_another(web: httpx.Client) -> None:
    study = {"StudyInstanceUID": new_uid()}
    series = {"SeriesInstanceUID": new_uid(), "SeriesNumber": 2}
    only_broken = [broken(InstanceNumber=number, **study, **series) for number in range(1, 6)]
    assert store(web, *only_broken).status_code == 200
    refused(web.get(f"{places(only_broken[0])[2]}/thumbnail"), 422, "bad-pixels")
    assert store(web, encoded(gradient(SeriesNumber=1, **study))).status_code == 200
    assert pixels(web.get(f"{places(only_broken[0])[2]}/thumbnail?accept=image/png")).shape == (256, 256)
    refused(web.get(f"{places(only_broken[0])[1]}/thumbnail"), 422, "bad-pixels")


@pytest.mark.parametrize("accept", ACCEPTS)
def test_what_has_no_picture_is_not_found_whatever_is_accepted(web: httpx.Client, accept: str) -> None:
    files = (
        encoded(report()),
        document("application/pdf", b"%PDF-1.4"),
        compressed([bytes(600)], MP4, Rows=8, Columns=8),
        encoded(dataset(**NO_PIXELS | {"SOPClassUID": PRESENTATION_STATE, "Modality": "PR"})),
    )
    assert store(web, *files).status_code == 200
    for file in files:
        for place in places(file):
            refused(web.get(f"{place}/thumbnail", headers={"Accept": accept}), 404, "not-found")
            answer = web.get(f"{place}/thumbnail?missing=empty", headers={"Accept": accept})
            assert (answer.status_code, answer.content) == (204, b"")
    refused(web.get(f"{path_of(files[3])}/rendered", headers={"Accept": accept}), 404, "not-found")


def test_asking_for_an_empty_answer(web: httpx.Client) -> None:
    image = kept(web, encoded(gradient()))
    assert web.get(f"{image}/thumbnail?missing=empty").status_code == 200
    assert web.get(f"{kept(web, broken())}/thumbnail?missing=empty").status_code == 204
    refused(web.get(f"{image}/thumbnail?missing=empty&accept=image/jp2"), 406, "not-acceptable")
    refused(web.get(f"{image}/thumbnail?missing=x"), 400, "bad-query")
    refused(web.get(f"{ROOT}/studies/1.2.3/thumbnail"), 404, "not-found")


def slide_of(web: httpx.Client, *levels: int, **attributes: Any) -> tuple[str, NDArray[Any]]:
    """A stored slide of oblong pixels, of which only the right half shows anything; its series.

    `levels`: how much smaller each is. Its label is the image in the middle of the series.
    """
    base = np.full((400, 800, 3), 255, np.uint8)
    base[:, 420:] = 200, 30, 90
    series = Series()
    files = [
        variants.file(
            instance(series, tiles_of(base[::level, ::level], 64), (800 // level, 400 // level), InstanceNumber=number)
        )
        for number, level in enumerate(levels, 1)
    ]
    label = instance(series, [np.zeros((90, 60, 3), np.uint8)], (60, 90), InstanceNumber=2, **attributes)
    label.ImageType = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
    assert store(web, *files, variants.file(label)).status_code == 200
    return f"{ROOT}/studies/{series.study}/series/{series.series}", base


def test_a_slide_is_shown_whole(web: httpx.Client) -> None:
    """Not by a frame in the middle, which may be glass, and not by its label."""
    series, base = slide_of(web, 1, 4)
    study = series.partition("/series")[0]
    expected = np.asarray(Image.fromarray(base).resize((256, 256), Image.Resampling.BOX)).astype(int)
    for place in (study, series):
        answer = web.get(f"{place}/thumbnail?accept=image/png")
        shown = pixels(answer).astype(int)
        assert shown.shape == (256, 256, 3)
        assert np.abs(shown[:, :130] - expected[:, :130]).max() == 0
        assert np.abs(shown[:, 140:] - expected[:, 140:]).max() == 0
        tag = {"If-None-Match": answer.headers["etag"]}
        assert web.get(f"{place}/thumbnail?accept=image/png", headers=tag).status_code == 304
        assert pixels(web.get(f"{place}/thumbnail?accept=image/gif&viewport=64,64")).shape[:2] == (64, 64)
    small = pixels(web.get(f"{series}/thumbnail?accept=image/png&viewport=,50&annotation=technique"))
    assert small.shape == (50, 50, 3)
    refused(web.get(f"{series}/thumbnail?viewport=8000,8000"), 400, "bad-query")


def test_a_new_level_makes_a_new_thumbnail(web: httpx.Client) -> None:
    series, _ = slide_of(web, 1)
    before = web.get(f"{series}/thumbnail")
    uids = series.split("/")
    same = Series(study=uids[3], series=uids[5])
    first = web.get(f"{series}/instances").json()[0]["00080018"]["Value"][0]
    frame_of_reference = web.get(f"{series}/instances/{first}/metadata").json()[0]["00200052"]["Value"][0]
    same.frame_of_reference = frame_of_reference
    green = np.full((100, 200, 3), (20, 160, 20), np.uint8)
    assert (
        store(web, variants.file(instance(same, tiles_of(green, 64), (200, 100), InstanceNumber=9))).status_code == 200
    )
    after = web.get(f"{series}/thumbnail?accept=image/png&viewport=100,50")
    assert after.headers["etag"] != before.headers["etag"]
    assert (pixels(after) == (20, 160, 20)).all()


def test_a_label_alone_is_no_slide(web: httpx.Client) -> None:
    series, _ = slide_of(web)
    assert pixels(web.get(f"{series}/thumbnail?accept=image/png")).shape[:2] == (256, 85)


def test_a_slide_whose_label_is_a_series_of_its_own(web: httpx.Client) -> None:
    """The label, which names the patient, does not stand for the study, whatever lies in its middle."""
    series, _ = slide_of(web, 1, 4)
    study, uid = series.split("/")[3], series.split("/")[5]
    others = Series(study=study)
    for number in range(1, 8):  # more images than the slide has levels
        label = instance(others, [np.zeros((90, 60, 3), np.uint8)], (60, 90), InstanceNumber=number, SeriesNumber=99)
        label.ImageType = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
        assert store(web, variants.file(label)).status_code == 200
    assert others.series != uid
    whole = web.get(f"{series}/thumbnail?accept=image/png")
    assert web.get(f"{ROOT}/studies/{study}/thumbnail?accept=image/png").content == whole.content
