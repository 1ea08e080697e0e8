"""Resources as a ZIP file: the answer of Orthanc's archives and of `Accept: application/zip`."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from api.exchange import Exchange
from api.responses import CACHE_REVALIDATE, Header, client_has, ranged, send_stream
from dicomweb.folders import safe_name
from storage.archives import Kind
from storage.zipped import Folder, Packing

_ZIP: Final[Header] = (b"content-type", b"application/zip")


async def send_zip(
    http: Exchange, resources: Sequence[str], level: Kind | None, packing: Packing, name: str | None = None
) -> None:
    """A ZIP file that is written while it is sent: the first bytes leave before the second file is read.

    Of files as they are stored its length is known, and it is sent from any byte on. `name`: of the download.
    """
    folders = await http.archive.archives.folders(http.access, resources, level)
    await send_folders(http, folders, packing, name or zip_name(resources))


async def send_folders(http: Exchange, folders: Sequence[Folder], packing: Packing, name: str) -> None:
    """The same of series that were found."""
    service = http.archive.archives
    headers = [_ZIP, attachment_header(http, name)]
    if not packing.plain:
        headers.append((b"cache-control", b"no-store"))
        await send_stream(http, 200, headers, None, service.zip(http.access, folders, packing))
        return
    measured = await service.measure(http.access, folders)
    headers += [(b"etag", measured.tag.encode()), CACHE_REVALIDATE]
    if http.method != "POST" and await client_has(http, headers):
        return
    status, offset, length = ranged(http, headers, measured.size)
    chunks = service.plain(http.access, folders, measured, offset, length)
    await send_stream(http, status, headers, length, chunks)


def zip_name(resources: Sequence[str]) -> str:
    """What the archive of resources is called unless the client says."""
    return f"{resources[0]}.zip" if len(resources) == 1 else "archive.zip"


def attachment_header(http: Exchange, name: str) -> Header:
    """Content-Disposition (RFC 6266); what `filename` asks for is a name only, never a path or another header."""
    wanted = safe_name(http.query_value("filename") or "") or name
    plain = "".join(c if c.isascii() else "_" for c in wanted)
    value = f'attachment; filename="{plain}"'
    if plain != wanted:
        value += f"; filename*=UTF-8''{quote(wanted)}"
    return b"content-disposition", value.encode()
