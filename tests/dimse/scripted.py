"""An archive that answers as a test wants: HTTP/1.1 by hand, so that it can also misbehave."""

import asyncio
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from dicomweb.media import parse_media_type
from dicomweb.meta import read_file_meta
from dicomweb.multipart import Parser, PartBegin, PartData, Writer, boundary_of


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    parts: list[tuple[dict[str, str], bytes]]

    @property
    def uids(self) -> list[str]:
        return [read_file_meta(body).sop_uid for _, body in self.parts]


@dataclass
class Reply:
    """`drop`: the connection is cut instead; `mute`: nothing comes."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    mute: bool = False


def referenced(*uids: str) -> dict[str, Any]:
    return {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in uids]}}


def failed(**reasons: int) -> dict[str, Any]:
    """By UID with underscores for dots, as keywords are."""
    return {
        "00081198": {
            "vr": "SQ",
            "Value": [
                {
                    "00081155": {"vr": "UI", "Value": [uid.strip("_").replace("_", ".")]},
                    "00081197": {"vr": "US", "Value": [reason]},
                }
                for uid, reason in reasons.items()
            ],
        }
    }


def answer(*datasets: dict[str, Any], status: int = 200) -> Reply:
    return Reply(status, json.dumps({tag: value for each in datasets for tag, value in each.items()}).encode())


class ScriptedArchive:
    """Takes everything, unless `script` says otherwise; `stored` has the bytes of what it took, each time."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.requests: list[Request] = []
        self.stored: dict[str, list[bytes]] = {}
        self.script: Callable[[Request], Reply | None] = lambda _: None
        self.broken = 0  # requests that ended early

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/dicom-web"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def took(self, request: Request) -> Reply:
        for uid, (_, body) in zip(request.uids, request.parts, strict=True):
            self.stored.setdefault(uid, []).append(body)
        return answer(referenced(*request.uids))

    def give(self, request: Request) -> Reply:
        """The last file that was stored under the UID at the end of the path, or the answers to a search."""
        found = self.stored.get(request.path.rpartition("/")[2])
        if not found:
            return Reply(404)
        writer = Writer("b")
        body = writer.part_head({"Content-Type": "application/dicom"}) + found[-1] + writer.tail()
        return Reply(200, body, {"content-type": writer.content_type("application/dicom")})

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await self._read(reader)
                self.requests.append(request)
                reply = self.script(request) or (self.took(request) if request.parts else self.give(request))
                if reply.mute:
                    await asyncio.sleep(3600)
                if reply.drop:
                    break
                lines = [f"HTTP/1.1 {reply.status} X", f"content-length: {len(reply.body)}"]
                lines += [f"{name}: {value}" for name, value in reply.headers.items()]
                writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + reply.body)
                await writer.drain()
        except asyncio.IncompleteReadError as error:
            self.broken += bool(error.partial)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        parts: list[tuple[dict[str, str], bytes]] = []
        if body:
            parser = Parser(boundary_of(parse_media_type(headers["content-type"])))
            for event in parser.feed(body):
                if isinstance(event, PartBegin):
                    parts.append((event.headers, b""))
                elif isinstance(event, PartData):
                    parts[-1] = (parts[-1][0], parts[-1][1] + bytes(event.data))
            parser.close()
        return Request(head[0].split(" ")[1], headers, parts)
