"""Clients of the crash test: each keeps an account of what the archive has promised, and notes every broken promise.

An item (one SOP Instance UID) belongs to one client, so that the set of states that are possible after an answer that
never came is small and exact: `possible` holds content variants, None for "not stored".
"""

import contextlib
import http.client
import json
import random
import secrets
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.dimse.peers import dataset_bytes
from tests.dimse.wire import CT, Wire, store_rq
from tests.files import ct

_UID = "1.2.3.4.{:038d}"
_SOP, _STUDY, _SERIES = (_UID.format(int(c) * 10**37 + 7) for c in "123")
_PATIENT, _KVP, _PIXELS = "PATIENT0", "111.1111", bytes(range(256)) * 32


def _template(pixels: bytes, rows: int, columns: int) -> bytes:
    return ct(
        SOPInstanceUID=_SOP,
        StudyInstanceUID=_STUDY,
        SeriesInstanceUID=_SERIES,
        PatientID=_PATIENT,
        KVP=_KVP,
        Rows=rows,
        Columns=columns,
        PixelData=pixels,
    )


_BIG_PIXELS = _PIXELS * 48
_TEMPLATE, _BIG_TEMPLATE = _template(_PIXELS, 64, 64), _template(_BIG_PIXELS, 384, 512)
_OURS = b"ANOR_"  # the implementation version name in the file meta group of what came by C-STORE
PATIENCE = 60.0  # a store that failed has to succeed within this, kills included
_CONFLICT, _REFUSED, _UNAVAILABLE = 0x0111, 0xC111, 0xA700


def uid() -> str:
    return _UID.format(secrets.randbelow(9 * 10**37) + 10**37)


@dataclass(frozen=True)
class Place:
    """A series, its study and patient."""

    patient: str
    study: str
    series: str


@dataclass
class Item:
    place: Place
    big: bool = False  # is spooled to disk
    uid: str = field(default_factory=uid)
    possible: set[int | None] = field(default_factory=lambda: {None})

    def content(self, variant: int) -> bytes:
        template, pixels = (_BIG_TEMPLATE, _BIG_PIXELS) if self.big else (_TEMPLATE, _PIXELS)
        data = template.replace(pixels, random.Random(f"{self.uid}/{variant}").randbytes(len(pixels)))
        data = data.replace(_SOP.encode(), self.uid.encode()).replace(_STUDY.encode(), self.place.study.encode())
        data = data.replace(_SERIES.encode(), self.place.series.encode())
        data = data.replace(_PATIENT.encode(), self.place.patient.encode())
        return data.replace(_KVP.encode(), f"{variant:08.3f}".encode())

    def is_content(self, variant: int, body: bytes) -> bool:
        """Whether a file is what was sent; C-STORE sends no file meta group."""
        expected = self.content(variant)
        return body == expected or (_OURS in body[:600] and dataset_bytes(body) == dataset_bytes(expected))

    @property
    def path(self) -> str:
        return f"/dicom-web/studies/{self.place.study}/series/{self.place.series}/instances/{self.uid}"


@dataclass
class Race:
    """An item that every client stores with content of its own: one may win (policy `reject`)."""

    item: Item
    sent: set[int] = field(default_factory=set)
    won: set[int] = field(default_factory=set)


class Failed(Exception):
    """No answer, or 503: nothing is known."""


class Shared:
    """What all clients use together."""

    def __init__(self, port: int, dimse_port: int, seed: int, *, replaces: bool = False) -> None:
        self.replaces = replaces  # the policy for other bytes under a stored UID; else they are refused
        self.port = port
        self.dimse_port = dimse_port
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.tally: Counter[str] = Counter()
        self.violations: list[str] = []
        self.slowest_retry = 0.0
        random_ = random.Random(seed)
        studies = [(f"SHARED{n // 2:02d}", uid()) for n in range(6)]
        self.places = [Place(*studies[n % 6], uid()) for n in range(18)]
        self.races = [Race(Item(random_.choice(self.places))) for _ in range(2000)]

    def violation(self, text: str) -> None:
        with self.lock:
            self.violations.append(f"{datetime.now(UTC):%H:%M:%S} {text}")

    def count(self, what: str, number: int = 1) -> None:
        with self.lock:
            self.tally[what] += number


class Client:
    """Works in a thread until told to stop; `items` is its account."""

    def __init__(self, shared: Shared, number: int, seed: int) -> None:
        self.thread = threading.Thread(target=self._run, name=f"client-{number}", daemon=True)
        self._shared = shared
        self._number = number
        self._random = random.Random(seed * 1000 + number)
        self._connection: http.client.HTTPConnection | None = None
        self._own = [Place(f"OWN{number:05d}", uid(), uid()) for _ in range(2)]
        self._race = 0
        self.items: list[Item] = []

    def _run(self) -> None:
        try:
            while not self._shared.stop.is_set():
                self._step()
        except Exception as error:  # noqa: BLE001 - a client that breaks must fail the test
            self._shared.violation(f"{self.thread.name} broke: {error!r}")
        finally:
            self.close()

    def _step(self) -> None:
        kind = self._random.random()
        settled = [item for item in self.items[-200:] if item.possible != {None}]
        if kind < 0.30:
            self._until_done([self._new()], self._stow)
        elif kind < 0.50:
            self._until_done([self._new() for _ in range(self._random.randint(2, 8))], self._stow)
        elif kind < 0.60:
            self._until_done([self._new()], self._post)
        elif kind < 0.66:
            self._until_done([self._new()], self._c_store)
        elif kind < 0.72 or not settled:
            self._join_race()
        elif kind < 0.82:
            self._again(self._random.choice(settled))
        elif kind < 0.90:
            self._other_bytes(self._random.choice(settled))
        elif kind < 0.96:
            self._delete(self._random.choice(settled))
        elif kind < 0.98:
            self._revive()
        else:
            self._delete_study()

    def _new(self) -> Item:
        own = self._random.random() < 0.3
        item = Item(self._random.choice(self._own if own else self._shared.places), big=self._random.random() < 0.08)
        self.items.append(item)
        return item

    # ------------------------------------------------------------------------------------------------- storing

    def _until_done(self, items: list[Item], send, variant: int = 1) -> None:
        """Store; what failed is sent again at once, until it is stored: nothing that failed may block."""
        began = failed = time.monotonic()
        first = True
        while items:
            for item in items:
                item.possible.add(variant)
            try:
                items = send(items, variant)
            except Failed:
                send = self._stow if send == self._c_store else send
                time.sleep(0.02)
            if items and first:
                failed, first = time.monotonic(), False
                self._shared.count("failed stores", len(items))
            if time.monotonic() - began > PATIENCE:
                self._shared.violation(f"{len(items)} stores could not be repeated for {PATIENCE} s")
                return
        if not first:
            with self._shared.lock:
                self._shared.slowest_retry = max(self._shared.slowest_retry, time.monotonic() - failed)

    def _stow(self, items: list[Item], variant: int) -> list[Item]:
        """One request; the items whose outcome is still open."""
        conflicts, done = self._stow_once({item.uid: item.content(variant) for item in items})
        for item in items:
            if item.uid in done:
                self._acknowledged(item, variant)
            elif item.uid in conflicts:
                self._refused(item, variant)
        if items and self._random.random() < 0.3:
            self.read(items[0])
        return [item for item in items if item.uid not in conflicts and item.uid not in done]

    def _stow_once(self, files: dict[str, bytes]) -> tuple[set[str], set[str]]:
        parts = b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n" for data in files.values())
        kind = 'multipart/related; type="application/dicom"; boundary=b'
        status, body = self._ask("POST", "/dicom-web/studies", parts + b"--b--\r\n", {"Content-Type": kind})
        if status not in (200, 202, 409):
            self._shared.violation(f"STOW answered {status}: {body[:300]!r}")
            raise Failed
        answer = json.loads(body)
        done = {i["00081155"]["Value"][0] for i in answer.get("00081199", {}).get("Value", [])}
        conflicts = set()
        for failure in answer.get("00081198", {}).get("Value", []):
            reason = failure["00081197"]["Value"][0]
            if reason == _CONFLICT:
                conflicts.add(failure["00081155"]["Value"][0])
            elif reason != _UNAVAILABLE:
                self._shared.violation(f"a valid instance was refused with {reason:#x}")
        if not (done | conflicts) <= files.keys():
            self._shared.violation("STOW answered about instances that were not sent")
        return conflicts, done

    def _post(self, items: list[Item], variant: int) -> list[Item]:
        (item,) = items
        status, body = self._ask("POST", "/instances", item.content(variant), {})
        if status != 200:
            self._shared.violation(f"POST /instances answered {status}: {body[:300]!r}")
            raise Failed
        success = json.loads(body)["Status"] == "Success" or self._shared.replaces
        if success or item.possible <= {None, variant}:
            self._acknowledged(item, variant)
        else:
            item.possible.discard(None)  # "AlreadyStored" does not say which bytes are
        if self._random.random() < 0.3:
            self.read(item)
        return []

    def _c_store(self, items: list[Item], variant: int) -> list[Item]:
        (item,) = items
        try:
            with Wire(self._shared.dimse_port, seconds=45) as peer:
                if peer.associate(CT) != 2:
                    raise Failed
                peer.message(1, store_rq(CT, item.uid), dataset_bytes(item.content(variant)))
                status = peer.status()
        except TimeoutError:
            self._shared.violation("C-STORE hung")
            raise Failed from None
        except (OSError, struct.error, KeyError):
            self._shared.count("no answer")
            raise Failed from None
        self._shared.count("C-STORE")
        if status == 0:
            self._acknowledged(item, variant)
        elif status == _REFUSED:
            self._refused(item, variant)
        elif status == _UNAVAILABLE:
            raise Failed
        else:
            self._shared.violation(f"C-STORE answered {status:#x}")
        return []

    def _acknowledged(self, item: Item, variant: int) -> None:
        item.possible = {variant}
        self._shared.count("acknowledged")

    def _refused(self, item: Item, variant: int) -> None:
        if self._shared.replaces or item.possible <= {None, variant}:
            self._shared.violation("refused as a duplicate of bytes that nobody sent")
        item.possible -= {None, variant}
        self._shared.count("refused duplicates")

    def _again(self, item: Item) -> None:
        variants = sorted(v for v in item.possible if v is not None)
        self._until_done([item], self._random.choice((self._stow, self._post, self._c_store)), variants[0])
        self._shared.count("repeated")

    def _other_bytes(self, item: Item) -> None:
        known = max(v for v in item.possible if v is not None)
        self._until_done([item], self._stow, known + 1)

    def _revive(self) -> None:
        gone = [item for item in self.items[-200:] if item.possible == {None}]
        if gone:
            self._until_done([self._random.choice(gone)], self._stow, self._random.randint(1, 5))
            self._shared.count("stored again after deletion")

    def _join_race(self) -> None:
        race = self._shared.races[self._race]
        self._race += 1
        race.sent.add(self._number)
        data = {race.item.uid: race.item.content(self._number)}
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(Failed):
                conflicts, done = self._stow_once(data)
                if done:
                    with self._shared.lock:
                        race.won.add(self._number)
                    self._shared.count("acknowledged")
                    return
                if conflicts:
                    self._shared.count("refused duplicates")
                    return
            time.sleep(0.02)
        self._shared.violation("a store in a race could not be repeated")

    # ------------------------------------------------------------------------------------- deleting and reading

    def _delete(self, item: Item) -> None:
        self._delete_path(item.path, [item])

    def _delete_study(self) -> None:
        place = self._random.choice(self._own)
        items = [item for item in self.items if item.place.study == place.study]
        if any(item.possible != {None} for item in items):
            self._delete_path(f"/dicom-web/studies/{place.study}", items)

    def _delete_path(self, path: str, items: list[Item]) -> None:
        end = time.monotonic() + PATIENCE
        sure = any(None not in item.possible for item in items)
        while time.monotonic() < end:
            try:
                status, body = self._ask("DELETE", path, None, {})
            except Failed:
                sure = False
                for item in items:
                    item.possible.add(None)
                time.sleep(0.02)
                continue
            if status not in (200, 204, 404) or (status == 404 and sure):
                self._shared.violation(f"DELETE answered {status}: {body[:300]!r}")
            for item in items:
                item.possible = {None}
            self._shared.count("deleted", len(items))
            return
        self._shared.violation("a deletion could not be repeated")

    def read(self, item: Item) -> None:
        """Whether the archive gives what it promised; what it gives decides what was possible."""
        try:
            status, body = self._ask("GET", item.path, None, {"Accept": "application/dicom"})
        except Failed:
            return
        self._shared.count("read")
        if status == 404:
            if None not in item.possible:
                self._shared.violation(f"LOST: {item.path}, acknowledged as {item.possible}")
            item.possible = {None}
        elif status == 200:
            found = {v for v in item.possible if v is not None and item.is_content(v, body)}
            if not found:
                self._shared.violation(f"WRONG BYTES: {item.path}, possible {item.possible}")
            else:
                item.possible = set(found)
        else:
            self._shared.violation(f"GET answered {status}: {body[:300]!r}")

    # -------------------------------------------------------------------------------------------------- plumbing

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        """Raises Failed for no answer, half an answer, and 503."""
        began = time.monotonic()
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", self._shared.port, timeout=45)
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
            content = answer.read()
        except TimeoutError:
            self.close()
            self._shared.violation(f"{method} {path} hung for {time.monotonic() - began:.0f} s")
            raise Failed from None
        except (OSError, http.client.HTTPException):
            self.close()
            self._shared.count("no answer")
            raise Failed from None
        if answer.status == 503:
            self._shared.count("answered 503")
            if answer.headers["Retry-After"] is None:
                self._shared.violation("503 without Retry-After")
            raise Failed
        return answer.status, content

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
