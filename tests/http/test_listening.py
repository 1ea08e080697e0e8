"""One port, several listening sockets: who gets a connection, and what is refused."""

import socket
from collections.abc import Sequence

import pytest

from api.listening import ListenError, listen, steer


def connect(listeners: Sequence[socket.socket], count: int) -> list[int]:
    """How many of `count` connections of one client each listener gets."""
    address = listeners[0].getsockname()[:2]
    clients = [socket.create_connection(address, timeout=10) for _ in range(count)]
    got = []
    for listener in listeners:
        accepted = []
        while True:
            try:
                accepted.append(listener.accept()[0])
            except BlockingIOError:
                break
        got.append(len(accepted))
        for connection in accepted:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            connection.close()
    for client in clients:
        client.close()
    assert sum(got) == count
    return got


def close(listeners: Sequence[socket.socket]) -> None:
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_worker_gets_its_share(host: str, workers: int) -> None:
    listeners = listen(host, 0, workers)
    try:
        assert len({each.getsockname()[1] for each in listeners}) == 1
        got = [sum(column) for column in zip(*(connect(listeners, 8) for _ in range(40)), strict=True)]
        assert min(got) > 320 / workers * 0.6, got
    finally:
        close(listeners)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_only_living_workers_get_connections(host: str) -> None:
    listeners = listen(host, 0, 3)
    try:
        steer(listeners, [0, 2])
        got = connect(listeners, 40)
        assert got[1] == 0
        assert min(got[0], got[2]) > 5
        steer(listeners, [])  # nobody: what was said before stays
        steer(listeners, [1])
        assert connect(listeners, 10) == [0, 10, 0]
    finally:
        close(listeners)


def test_a_taken_port_is_refused_even_to_ourselves() -> None:
    listeners = listen("127.0.0.1", 0, 2)
    try:
        port = listeners[0].getsockname()[1]
        with pytest.raises(ListenError, match=f"port {port}: Address already in use"):
            listen("127.0.0.1", port, 2)
    finally:
        close(listeners)
    close(listen("127.0.0.1", port, 2))  # and free again


def test_addresses_that_are_not_ours() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0, 1)
    with pytest.raises(ListenError, match=r"no-such-host\.invalid"):
        listen("no-such-host.invalid", 0, 1)
