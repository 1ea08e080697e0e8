"""POST /tools/create-dicom: instances of attributes, pictures and documents."""

import asyncio
from contextlib import aclosing
from typing import Final

from api.exchange import Exchange
from api.routes.orthanc.dialect import checked_object, json_of, route, send_json
from api.routes.orthanc.upload import UPLOADED, store_file
from dicomweb.creation.request import Creation
from dicomweb.tags import Level
from dicomweb.uids import parse_orthanc_id


async def create(http: Exchange) -> None:
    """Make instances and store them; where one cannot be made or stored, none is."""
    creation = await asyncio.to_thread(Creation.parse, checked_object(await json_of(http, "max_create_json")))
    stored: list[dict[str, str]] = []
    async with aclosing(http.archive.creation.files(http.access, creation)) as files:
        try:
            async for each in files:
                stored.append(await store_file(http, each))  # noqa: PERF401 - those before a failure count
        except BaseException:
            # Those of a list have UIDs that were made for them: nothing that was there before is deleted.
            if creation.several and stored:
                await asyncio.shield(_take_back(http, [each["ID"] for each in stored]))
            raise
    if not creation.several:
        await send_json(http, stored[0])
        return
    series = stored[0]["ParentSeries"]
    await send_json(http, {"ID": series, "Path": f"/series/{series}", "Status": stored[0]["Status"]})


async def _take_back(http: Exchange, instances: list[str]) -> None:
    named = [(Level.INSTANCE, parse_orthanc_id(each)) for each in instances]
    await http.archive.lifecycle.remove_all(http.access.with_scope("dicom.delete"), named)


_PICTURE: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
_ABOUT: Final = (
    "Of `Tags`, and of `Content`: a data URI of PNG, JPEG, PDF, STL, OBJ or MTL, or a list of them, which gives a "
    "series with an instance each and is answered with the series. `Parent` is a patient, study or series, whose "
    "attributes are taken over; to give others, or UIDs, takes `Force`. A JPEG picture is stored as it is with "
    "`Encapsulate`. Private attributes are those of `PrivateCreator`. With `InterpretBinaryTags` false, values that "
    "are data URIs are text."
)
_BODY: Final = {
    "Tags": {"PatientID": "P-1", "PatientName": "Doe^Jane", "Modality": "OT", "SeriesDescription": "Photograph"},
    "Content": _PICTURE, "Parent": "", "Force": False, "Encapsulate": False, "PrivateCreator": "",
    "InterpretBinaryTags": True,
}  # fmt: skip

OPERATIONS = (
    route("POST", "/tools/create-dicom", "dicom.write", ("Create instances", _ABOUT), create, UPLOADED, _BODY),
)
