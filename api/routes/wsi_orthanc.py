"""The addresses at which Orthanc's WSI plug-in has IIIF and its viewer."""

from api.exchange import Exchange
from api.responses import CACHE_REVALIDATE, send_bytes
from api.routes.wsi import CHANNEL, ERRORS, PICTURE_ANSWERS, described, orthanc_slide
from api.routes.wsi_dialects import IIIF_REQUEST, INFORMATION, send_image, send_information
from api.routes.wsi_iiif_frames import frame_image, iiif_root, send_manifest
from api.routing import Answer, Content, Operation, Parameter
from dicomweb.errors import BadQuery, NotFound, Unavailable
from storage.slides import StoredSlide
from wsi.dialects import Canvas, iiif_manifest


def _image(http: Exchange) -> str:
    return f"{iiif_root(http)}/tiles/{http.path['orthanc']}"


async def iiif_base(http: Exchange) -> None:
    """The URI of the image leads to its description (IIIF Image API 3.0, 2.2)."""
    await orthanc_slide(http)
    await send_bytes(http, 303, [(b"location", f"{_image(http)}/info.json".encode()), CACHE_REVALIDATE])


async def iiif_information_document(http: Exchange) -> None:
    """info.json."""
    await send_information(http, await orthanc_slide(http), _image(http))


async def iiif_image(http: Exchange) -> None:
    """A picture by region, size, rotation, quality and format."""
    await send_image(http, await orthanc_slide(http))


async def iiif_manifest_document(http: Exchange) -> None:
    """manifest.json: of a slide, or of the frames of other images."""
    place = f"{iiif_root(http)}/series/{http.path['orthanc']}/manifest.json"
    try:
        stored = await orthanc_slide(http)
    except NotFound:
        label, frames = await http.services.tiles.frames.of_series(http.access, http.path["orthanc"])
        canvases = [
            Canvas(frame_image(http, each.identifier, each.number), str(number), each.columns, each.rows)
            for number, each in enumerate(frames, 1)
        ]
    else:
        base, label = stored.slide.base, _label(stored)
        canvases = [Canvas(_image(http), label, base.width, base.height)]
    await send_manifest(http, place, label, canvases)


def _label(stored: StoredSlide) -> str:
    """What is written on the slide, as a rule: the identifier of its container."""
    return stored.slide.instances[stored.slide.base.sample].container or stored.series


async def viewer(http: Exchange) -> None:
    """Redirect to the slide viewer, whose series is named by its UID."""
    orthanc = http.query_value("series")
    if not orthanc:
        raise BadQuery("series is the identifier of a series", attribute="series")
    series = await http.archive.slides.series_of(http.access, orthanc)
    await send_bytes(http, 303, [(b"location", f"../viewer/?series={series}".encode()), CACHE_REVALIDATE])


_ORTHANC = "0d0f8b3c-6a1f9d7f-4a4e7a37-7c9c0f0a-8a0e7b55"
_PLACE = "https://archive.example/wsi/iiif"
_DOCUMENT = iiif_manifest(
    f"{_PLACE}/series/{_ORTHANC}/manifest.json",
    "S24-1 A1",
    [Canvas(f"{_PLACE}/tiles/{_ORTHANC}", "S24-1 A1", 6000, 5000)],
)
OPERATIONS = (
    described(
        "/wsi/iiif/tiles/{orthanc}",
        "Find the description of an image, as Orthanc has it",
        "The series is named by its Orthanc identifier. Redirects to `info.json`.",
        iiif_base,
        Answer(303, "The place of the description."),
        orthanc=True,
    ),
    described(
        "/wsi/iiif/tiles/{orthanc}/info.json",
        "Describe a slide for IIIF, as Orthanc does",
        "The series is named by its Orthanc identifier. Image information of the IIIF Image API 3.0; where Orthanc has "
        "level 0, this is level 2.",
        iiif_information_document,
        Answer(200, "The description.", (Content("application/ld+json", INFORMATION),)),
        orthanc=True,
    ),
    Operation(
        "GET",
        "/wsi/iiif/tiles/{orthanc}/{region}/{size}/{rotation}/{picture}",
        "dicom.read",
        "Slides",
        "Retrieve a picture by IIIF, as Orthanc does",
        f"The series is named by its Orthanc identifier. {IIIF_REQUEST}",
        iiif_image,
        PICTURE_ANSWERS,
        CHANNEL,
        errors=ERRORS,
        orthanc=True,
    ),
    described(
        "/wsi/iiif/series/{orthanc}/manifest.json",
        "Retrieve the IIIF manifest of a series",
        "The series is named by its Orthanc identifier. A manifest of the IIIF Presentation API 3.0, whose one canvas "
        "is the slide. Of other images each frame is a canvas, 10,000 at most.",
        iiif_manifest_document,
        Answer(200, "The manifest.", (Content("application/ld+json", _DOCUMENT),)),
        orthanc=True,
    ),
    Operation(
        "GET",
        "/wsi/app/viewer.html",
        "dicom.read",
        "Slides",
        "Open the slide viewer at Orthanc's address",
        "Redirects to the viewer.",
        viewer,
        (Answer(303, "The place of the viewer."),),
        (Parameter("series", "query", "Orthanc identifier of the series", _ORTHANC, required=True),),
        errors=(BadQuery, NotFound, Unavailable),
        orthanc=True,
    ),
)
