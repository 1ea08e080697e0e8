"""POST /tools/create-dicom: instances of attributes, pictures and documents."""

import asyncio
from contextlib import aclosing
from typing import Final

from api.exchange import Exchange
from api.routes.orthanc.dialect import checked_object, json_of, route, send_json
from api.routes.orthanc.upload import UPLOADED, store_file
from dicomweb.creation.request import Creation
from storage.provenance import Provenance


async def create(http: Exchange) -> None:
    """Make instances and store them; where one cannot be made or stored, none is."""
    creation = await asyncio.to_thread(Creation.parse, checked_object(await json_of(http, "max_create_json")))
    ingest, source = http.archive.ingest, Provenance("rest", http.peer)
    async with aclosing(http.archive.creation.files(http.access, creation)) as files:
        if not creation.several:
            await send_json(http, await store_file(http, await anext(files)))
            return
        stored = await ingest.store_together(http.access, files, source)
    series = stored[0].series
    await send_json(http, {"ID": series, "Path": f"/series/{series}", "Status": "Success"})


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
