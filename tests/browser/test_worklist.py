"""The event channel with a browser's own WebSocket: an implementation that is not ours, and that sends an Origin."""

import http.server
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.browser.conftest import Watched
from tests.files import new_uid
from tests.support import RunningServer
from tests.worklist import to_state, workitem

# Two events, then what closed the socket before they had come.
_LISTEN = """(url) => new Promise((resolve) => {
    const socket = new WebSocket(url), events = [];
    socket.onmessage = (message) => {
        events.push(JSON.parse(message.data)['00741000'].Value[0]);
        if (events.length === 2) { socket.close(); resolve(events); }
    };
    socket.onclose = (event) => resolve([...events, `closed ${event.code}`]);
})"""


@pytest.fixture
def channel(server: RunningServer) -> str:
    """A WebSocket on which two events wait."""
    uid = new_uid()
    with httpx.Client(base_url=server.dicomweb, timeout=30) as web:
        assert web.post(f"/workitems?{uid}", json=workitem()).status_code == 201
        answer = web.post(f"/workitems/{uid}/subscribers/B{uid[-12:]}")
        assert web.put(f"/workitems/{uid}/state", json=to_state("IN PROGRESS", new_uid())).status_code == 200
    return answer.headers["content-location"]


@pytest.fixture
def foreign() -> Iterator[str]:
    """The URL of a page on another origin."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{other.server_port}/"
        other.shutdown()
        thread.join()


async def test_a_page_of_the_archive_listens(watched: Watched, server: RunningServer, channel: str) -> None:
    await watched.page.goto(f"{server.url}/docs")
    assert await watched.page.evaluate(_LISTEN, channel) == ["SCHEDULED", "IN PROGRESS"]
    watched.clean()


async def test_a_foreign_page_does_not(watched: Watched, foreign: str, channel: str) -> None:
    await watched.page.goto(foreign)
    assert await watched.page.evaluate(_LISTEN, channel) == ["closed 1006"]
