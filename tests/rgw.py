"""A real Ceph RGW (S3) for tests: one monitor, one OSD, one gateway, all ours, on loopback, without root or systemd.

`rgw` starts it once per run (8-15 s) on free ports in a temporary directory; tests take a bucket each and may kill,
pause and revive its daemons, as long as they leave it alive. From a shell, for experiments: `python -m tests.rgw`.
"""

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin", "setpriv")
PACKAGES = "ceph-mon ceph-osd radosgw ceph-common util-linux"
POOLS = (
    ".rgw.root",
    "default.rgw.log",
    "default.rgw.control",
    "default.rgw.meta",
    "default.rgw.buckets.index",
    "default.rgw.buckets.data",
    "default.rgw.buckets.non-ec",
)
START_SECONDS = 90.0
SSE_KEY = "a-key"  # of server-side encryption (SSE-KMS)
DNS_NAME = "s3.anor.test"  # buckets are below it (virtual-hosted addressing); nothing resolves it


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Rgw:
    """A running cluster. Daemons are called "mon", "osd" and "rgw"."""

    def __init__(self, base: Path, *, osd_bytes: int = 6 << 30, nodelay: bool = True) -> None:
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing:
            raise RuntimeError(f"tests need a real S3 service; not found: {', '.join(missing)} (Debian: {PACKAGES})")
        self.base = base
        self.access_key = "tester"
        self.secret_key = secrets.token_hex(16)
        self.region = "default"
        self.port = free_port()
        self._monitor_port = free_port()
        self.nodelay = nodelay  # without it, small answers on a kept connection wait 40 ms for the client's ACK
        self._osd_bytes = osd_bytes
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._conf = base / "ceph.conf"
        self._ready_bucket = False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, bucket: str, prefix: str = "") -> dict[str, object]:
        """The settings that point an archive at a bucket of ours."""
        return {
            "objects": f"s3://{bucket}/{prefix}".rstrip("/"),
            "s3_endpoint": self.endpoint,
            "s3_region": self.region,
            "s3_access_key": self.access_key,
            "s3_secret_key": self.secret_key,
        }

    def client(self) -> Any:
        """A boto3 client with all rights."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                connect_timeout=2,
                read_timeout=15,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def new_bucket(self) -> str:
        name = f"test-{secrets.token_hex(6)}"
        client = self.client()
        client.create_bucket(Bucket=name)
        client.close()
        return name

    # ------------------------------------------------------------------------------------------------ lifetime

    def start(self) -> None:
        for name in ("run", "log", "mon", "osd", "rgw"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        self._conf.write_text(self._configuration())
        self._make_keys()
        self.revive("mon")
        self._wait("the monitor", lambda: self._ceph("quorum_status", check=False).returncode == 0, "mon")
        osd_uuid = str(uuid.uuid4())
        self._ceph("osd", "new", osd_uuid, "0")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_uuid)
        self.revive("osd")
        # The pools that the gateway would make one after the other, a second each.
        with ThreadPoolExecutor(len(POOLS)) as pool:
            list(pool.map(lambda name: self._ceph("osd", "pool", "create", name, "8", "8"), POOLS))
        self._wait("the OSD", lambda: self._osd_up() and self._placement_active(), "osd")
        self._run(
            "radosgw-admin", "user", "create", "--uid=tester", "--display-name=tester",
            f"--access-key={self.access_key}", f"--secret-key={self.secret_key}",
        )  # fmt: skip
        self.revive("rgw")
        self.wait_ready()

    def stop(self) -> None:
        for name in ("rgw", "osd", "mon"):
            process = self._processes.get(name)
            if process is None or process.poll() is not None:
                continue
            process.send_signal(signal.SIGCONT)
            process.kill()  # nothing of it is kept: no need for the seconds of an orderly end
            process.wait(30)

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Wait until the gateway answers and an object can be written and read."""
        client = self.client()

        def usable() -> bool:
            try:
                if not self._ready_bucket:
                    client.create_bucket(Bucket="ready")
                    self._ready_bucket = True
                client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                return bool(client.get_object(Bucket="ready", Key="ready")["Body"].read() == b"ready")
            except (BotoCoreError, ClientError):
                return False

        self._wait("the gateway", usable, "rgw", seconds)
        client.close()

    # -------------------------------------------------------------------------------------------------- faults

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self._processes[name].kill()
        self._processes[name].wait(30)

    def pause(self, name: str) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGCONT)

    def revive(self, name: str) -> None:
        """Start a daemon that is not running."""
        frontend = f"beast endpoint=127.0.0.1:{self.port} tcp_nodelay={int(self.nodelay)}"
        commands = {
            "mon": ["ceph-mon", "-i", "a"],
            "osd": ["ceph-osd", "-i", "0"],
            "rgw": [
                "radosgw", "-n", "client.rgw", f"--rgw-frontends={frontend}",
                f"--rgw-data={self.base}/rgw",
            ],
        }  # fmt: skip
        with (self.base / "log" / f"{name}.out").open("ab") as out:
            self._processes[name] = subprocess.Popen(
                # The daemon goes when we go, however that happens; in a group of its own, Ctrl-C is ours alone.
                ["setpriv", "--pdeathsig", "KILL", *commands[name], "-f", "-c", str(self._conf)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    # ------------------------------------------------------------------------------------------------ plumbing

    def _run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [command[0], "-c", str(self._conf), *command[1:]], capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command[:4])} failed: {done.stderr[-2000:]}")
        return done

    def _ceph(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._run("ceph", "--connect-timeout", "3", *arguments, check=check)

    def _osd_up(self) -> bool:
        answer = self._ceph("osd", "stat", "-f", "json", check=False)
        return answer.returncode == 0 and json.loads(answer.stdout)["num_up_osds"] == 1

    def _placement_active(self) -> bool:
        answer = self._ceph("osd", "dump", "-f", "json", check=False)
        return answer.returncode == 0 and len(json.loads(answer.stdout)["pools"]) >= len(POOLS)

    def _wait(self, what: str, done: Any, process: str, seconds: float = START_SECONDS) -> None:
        limit = time.monotonic() + seconds
        while not done():
            alive = self._processes[process].poll() is None
            if not alive or time.monotonic() > limit:
                text = (self.base / "log" / f"{process}.out").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{what} of the test cluster {'did not become ready' if alive else 'died'}: {text}")
            time.sleep(0.1)

    def _make_keys(self) -> None:
        """One keyring for everything. The gateway of 16.2 cannot log in without cephx."""
        ring = str(self.base / "keyring")
        grants = ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
        subprocess.run(["ceph-authtool", "-C", ring, "-g", "-n", "mon.", "--cap", "mon", "allow *"], check=True,
                       capture_output=True)  # fmt: skip
        for name in ("client.admin", "osd.0", "client.rgw"):
            subprocess.run(["ceph-authtool", ring, "-g", "-n", name, *grants], check=True, capture_output=True)
        monitors = str(self.base / "monmap")
        address = f"[v2:127.0.0.1:{self._monitor_port}]"
        fsid = self._conf.read_text().split("fsid = ")[1].split()[0]
        subprocess.run(
            ["monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monitors],
            check=True,
            capture_output=True,
        )
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors, "--keyring", ring)

    def _configuration(self) -> str:
        base = self.base
        values = {
            "fsid": str(uuid.uuid4()),
            "mon initial members": "a",
            "mon host": f"[v2:127.0.0.1:{self._monitor_port}]",
            "auth cluster required": "cephx",
            "auth service required": "cephx",
            "auth client required": "cephx",
            "auth allow insecure global id reclaim": "false",
            "keyring": f"{base}/keyring",
            "mon data": f"{base}/mon",
            "osd data": f"{base}/osd",
            "run dir": f"{base}/run",
            "admin socket": f"{base}/run/$name.$pid.asok",
            "log file": f"{base}/log/$name.log",
            "crash dir": f"{base}/log",
            "public addr": "127.0.0.1",
            "cluster addr": "127.0.0.1",
            "ms bind msgr1": "false",
            "ms bind ipv6": "false",
            # One copy on one disk, on a machine whose disk may be nearly full.
            "mon allow pool size one": "true",
            "mon warn on pool no redundancy": "false",
            "mon data avail crit": "1",
            "mon data avail warn": "2",
            "osd pool default size": "1",
            "osd pool default min size": "1",
            "osd pool default pg autoscale mode": "off",
            "osd crush chooseleaf type": "0",
            "osd objectstore": "bluestore",  # the in-memory store loses everything on SIGKILL
            "bluestore block size": str(self._osd_bytes),
            "bluestore block create": "true",
            "osd memory target": str(896 << 20),
            # A paused OSD must not be declared dead for good.
            "osd heartbeat grace": "600",
            "mon osd down out interval": "3600",
            # Making a bucket notifies all gateways, a killed one too, until its watch ends (30 s by default).
            "osd client watch timeout": "6",
            "objecter tick interval": "1",
            # A gateway that starts fast: few shards of everything.
            "rgw zone": "default",
            "rgw dns name": DNS_NAME,
            # One key for server-side encryption, which Ceph wants over TLS else.
            "rgw crypt require ssl": "false",
            "rgw crypt s3 kms backend": "testing",
            "rgw crypt s3 kms encryption keys": f"{SSE_KEY}={base64.b64encode(secrets.token_bytes(32)).decode()}",
            "rgw gc max objs": "8",
            "rgw lc max objs": "1",
            "rgw objexp hints num shards": "1",
            "rgw data log num shards": "1",
            "rgw md log max shards": "1",
            "rgw usage max shards": "1",
            "rgw thread pool size": "64",
        }
        return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())


@contextlib.contextmanager
def running_rgw(*, nodelay: bool = True) -> Iterator[Rgw]:
    """A cluster in a temporary directory, which is removed at the end."""
    # Short: the path of a Unix socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="rgw-", ignore_cleanup_errors=True) as base:
        cluster = Rgw(Path(base), nodelay=nodelay)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="session")
def rgw() -> Iterator[Rgw]:
    """The S3 service of this run. There is no way to skip: without it the S3 store is untested."""
    with running_rgw() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def rgw_bucket(rgw: Rgw) -> str:
    """A bucket that tests share; each keeps to a prefix of its own."""
    return rgw.new_bucket()


@pytest.fixture(params=["directory", "s3"])
def either_store(request: pytest.FixtureRequest) -> dict[str, object]:
    """The settings of an object store: a test that asks for it runs with a directory, and with S3."""
    if request.param == "directory":
        return {}
    rgw: Rgw = request.getfixturevalue("rgw")
    return rgw.settings(request.getfixturevalue("rgw_bucket"), f"either/{secrets.token_hex(6)}")


def main() -> None:
    """Run a cluster until Ctrl-C; print what a shell needs to use it."""
    with running_rgw() as cluster:
        for name, value in cluster.settings(cluster.new_bucket()).items():
            print(f"export ANOR_{name.upper()}={value}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit("usage: python -m tests.rgw   (TMPDIR says where)")
    os.umask(0o077)
    main()
