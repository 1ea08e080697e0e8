"""GETs: by wrk, and a closed loop for answers that are large or slow."""

import json
import random
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .archives import LOOPBACK
from .post import connect

_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_RECEIVE = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of GETs: `rate` per second, body MB (10^6) per second, p50 and p99 in ms, answers that failed."""

    requests: int
    rate: float
    megabytes: float
    p50: float
    p99: float
    errors: int


_WRK = """
local requests, position = {}, %(first)d
function init(arguments)
  for path in io.lines("%(paths)s") do
    local headers = {["Accept"] = [[%(accept)s]], ["Accept-Encoding"] = "%(encoding)s"}
    requests[#requests + 1] = wrk.format("GET", path, headers)
  end
end
function request()
  position = position %% #requests + 1
  return requests[position]
end
function done(summary, latency, per_thread)
  local e = summary.errors
  io.write(string.format('\\nRESULT [%%d, %%d, %%d, %%.4f, %%.4f, %%d]\\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    e.status + e.connect + e.write + e.timeout))
end
"""


def wrk(port: int, paths: Sequence[str], connections: int, seconds: int, accept: str, encoding: str) -> Sample:
    """GET the paths in turn, beginning anywhere, for whole `seconds`, with one wrk thread."""
    with tempfile.TemporaryDirectory() as folder:
        listed, script = Path(folder, "paths"), Path(folder, "script.lua")
        listed.write_text("\n".join(paths) + "\n")
        first = random.randrange(len(paths))
        script.write_text(_WRK % {"first": first, "paths": listed, "accept": accept, "encoding": encoding})
        options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script)]
        done = subprocess.run(
            ["wrk", *options, f"http://{LOOPBACK}:{port}"], capture_output=True, text=True, check=False
        )
    found = re.search(r"RESULT (\[.*\])", done.stdout)
    if not found:
        raise RuntimeError(f"wrk gave no result: {done.stdout[-300:]} {done.stderr[-300:]}")
    requests, microseconds, size, p50, p99, errors = json.loads(found[1])
    return Sample(requests, requests * 1e6 / microseconds, size / microseconds, p50, p99, errors)


class Reader:
    """One keep-alive connection that reads answers in large pieces and throws them away."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sock: socket.socket | None = None
        self._buffer = memoryview(bytearray(_RECEIVE))

    def get(self, path: str, accept: str, encoding: str = "identity") -> int:
        """Bytes of the answer's body as it came over the wire. Raises ConnectionError when it is no 200."""
        head = f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nAccept: {accept}\r\nAccept-Encoding: {encoding}\r\n\r\n"
        if self._sock is None:
            self._sock = connect(self._port)
            self._sock.settimeout(300)
        self._sock.sendall(head.encode())
        received = bytearray()
        while (end := received.find(_HEAD_END)) < 0:
            received += self._piece()
        fields = bytes(received[:end]).lower()
        if fields[9:12] != b"200":
            raise ConnectionError(f"{fields[:40]!r} for {path}")
        body = bytes(received[end + 4 :])
        length = re.search(rb"\r\ncontent-length: *(\d+)", fields)
        size = self._rest(body, int(length[1]) if length else None, chunked=b"chunked" in fields)
        if b"\r\nconnection: close" in fields:
            self.close()
        return size

    def _piece(self) -> memoryview:
        assert self._sock is not None
        if not (count := self._sock.recv_into(self._buffer)):
            raise ConnectionError("closed in the middle of an answer")
        return self._buffer[:count]

    def _rest(self, body: bytes, length: int | None, *, chunked: bool) -> int:
        size, tail = len(body), body[-5:]
        if length is not None:
            while size < length:
                size += len(self._piece())
        elif chunked:
            while not tail.endswith(_LAST_CHUNK):
                piece = self._piece()
                size, tail = size + len(piece), (tail + bytes(piece[-5:]))[-5:]
        else:  # HTTP/1.1's last resort, which Orthanc uses for series: the body ends with the connection
            assert self._sock is not None
            while count := self._sock.recv_into(self._buffer):
                size += count
            self.close()
        return size

    def close(self) -> None:
        """End the connection; the next `get` opens a new one."""
        if self._sock:
            self._sock.close()
            self._sock = None


def closed_loop(port: int, paths: Sequence[str], connections: int, count: int, accept: str, encoding: str) -> Sample:
    """Exactly `count` GETs, none abandoned: for answers that are large or take longer than wrk's run."""
    left, lock = iter([paths[index % len(paths)] for index in range(count)]), threading.Lock()
    spent: list[float] = []
    sizes: list[int] = []
    failed: list[BaseException] = []

    def work() -> None:
        reader = Reader(port)
        while not failed:
            with lock:
                path = next(left, None)
            if path is None:
                break
            begin = time.perf_counter()
            try:
                sizes.append(reader.get(path, accept, encoding))
            except OSError as error:
                failed.append(error)
            spent.append((time.perf_counter() - begin) * 1000)
        reader.close()

    threads = [threading.Thread(target=work) for _ in range(connections)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begin
    if failed:
        raise failed[0]
    spent.sort()
    p99 = spent[min(len(spent) - 1, int(len(spent) * 0.99))]
    return Sample(count, count / elapsed, sum(sizes) / elapsed / 1e6, spent[len(spent) // 2], p99, 0)
