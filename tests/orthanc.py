"""Debian's Orthanc as a DICOM peer: started in one directory, on the loopback interface only."""

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

from tests.support import free_port

PROGRAM = which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")

# Orthanc 1.10 has no setting for the address of its DICOM server; this preload narrows the wildcard to loopback.
_SHIM = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

int bind(int fd, const struct sockaddr *address, socklen_t length) {
  static int (*next)(int, const struct sockaddr *, socklen_t);
  struct sockaddr_storage copy;
  if (!next) next = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "bind");
  if (!address || length > sizeof copy) return next(fd, address, length);
  memset(&copy, 0, sizeof copy);
  memcpy(&copy, address, length);
  if (copy.ss_family == AF_INET) {
    struct sockaddr_in *four = (struct sockaddr_in *)&copy;
    if (four->sin_addr.s_addr == htonl(INADDR_ANY)) four->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  } else if (copy.ss_family == AF_INET6) {
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&copy;
    if (IN6_IS_ADDR_UNSPECIFIED(&six->sin6_addr)) inet_pton(AF_INET6, "::ffff:127.0.0.1", &six->sin6_addr);
  }
  return next(fd, (struct sockaddr *)&copy, length);
}
"""


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc."""

    url: str
    dimse_port: int
    aet: str

    def request(self, method: str, path: str, body: bytes | None = None) -> Any:
        """One REST call; the answer as JSON, or as bytes where it is none. Raises HTTPError."""
        request = urllib.request.Request(self.url + path, data=body, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            data = answer.read()
            return json.loads(data) if "json" in answer.headers.get("Content-Type", "") else data

    def upload(self, file: bytes) -> str:
        """Orthanc's ID of the instance."""
        return str(self.request("POST", "/instances", file)["ID"])


@contextlib.contextmanager
def running_orthanc(
    base: Path,
    modalities: Mapping[str, tuple[str, int]],
    aet: str = "ORTHANC",
    *,
    plugins: Sequence[Path] = (),
    users: Mapping[str, str] | None = None,
) -> Iterator[Orthanc]:
    """Orthanc for the time of a `with` block.

    `modalities` by name: AE title and port on this machine. `users`: passwords of those who may use it; unset: anybody.
    """
    assert PROGRAM is not None, "install Debian's package orthanc"
    base.mkdir(parents=True, exist_ok=True)
    source, shim = base / "loopback.c", base / "loopback.so"
    source.write_text(_SHIM)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True)
    http, dimse = free_port(), free_port()
    settings = {
        "Name": aet,
        "StorageDirectory": str(base / "db"),
        "IndexDirectory": str(base / "db"),
        "Plugins": [str(each) for each in plugins],
        "HttpPort": http,
        "DicomPort": dimse,
        "DicomAet": aet,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": users is not None,
        "RegisteredUsers": dict(users or {}),
        "DicomAlwaysAllowStore": True,
        "DicomCheckModalityHost": False,
        "DicomModalities": {name: [title, "127.0.0.1", port] for name, (title, port) in modalities.items()},
    }
    (base / "orthanc.json").write_text(json.dumps(settings))
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, base / "orthanc.json"],
            env={"LD_PRELOAD": str(shim), "TCP_NODELAY": "1", "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    orthanc = Orthanc(f"http://127.0.0.1:{http}", dimse, aet)
    try:
        _await(orthanc, process, base / "log")
        yield orthanc
    finally:
        process.kill()  # nothing of it is kept: no need for the seconds of an orderly end
        process.wait()


def _await(orthanc: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"Orthanc did not start:\n{log.read_text()[-2000:]}")
        try:
            orthanc.request("GET", "/system")
        except urllib.error.HTTPError as error:
            if error.code == 401:
                return
            raise
        except OSError:
            time.sleep(0.05)
        else:
            return
