"""`/local-aets`: AE titles of ours beside that of the settings, and the studies that belong to each. Not in Orthanc."""

from typing import Final

from api.exchange import Exchange
from api.routes.orthanc.dialect import EMPTY, object_of, route, send_json, send_text, texts
from storage.modalities import LocalTitle


async def titles(http: Exchange) -> None:
    """All of them with their labels."""
    found = await http.archive.modalities.titles(http.access)
    await send_json(http, {each.aet: {"Labels": list(each.labels)} for each in found})


async def put(http: Exchange) -> None:
    """Take a title, or change its labels."""
    labels = texts(await object_of(http), "Labels")
    await http.archive.modalities.put_title(http.access, LocalTitle(http.path["aet"], tuple(labels)))
    await send_text(http, "")


async def delete(http: Exchange) -> None:
    """Give a title up."""
    await http.archive.modalities.delete_title(http.access, http.path["aet"])
    await send_text(http, "")


_ONE: Final = "/local-aets/{aet}"

OPERATIONS = (
    route("GET", "/local-aets", "dimse.read", ("List our AE titles", "Those beside the one of the settings."), titles,
          {"RESEARCH": {"Labels": ["trial"]}}),
    route("PUT", _ONE, "dimse.admin",
          ("Take an AE title", "Who calls it sees studies that have all of its labels; what they store gets them."),
          put, EMPTY, {"Labels": ["trial"]}),
    route("DELETE", _ONE, "dimse.admin", ("Give an AE title up", "Labels that studies got by it stay."), delete, EMPTY),
)  # fmt: skip
