"""One TCP port, one listening socket per worker process, and which worker gets the next connection.

A socket that workers share would be simpler, but whoever wakes first takes every connection of a burst: measured
with two workers and eight connections, 8 : 0 most of the time. With a socket each (SO_REUSEPORT) the kernel chooses
by a hash, 5.1 of 8 on the busier worker on average. A program of ours chooses by the client's port instead, in blocks:
Linux gives the connections of one client rising ports, 9 apart on average, so that they alternate (4.8 of 8); and a
worker that died gets nothing until it is back. All sockets are made by the supervisor and stay open in it: what waits
in a queue outlives the worker.
"""

import ctypes
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

BACKLOG: Final = 2048

_SO_ATTACH_REUSEPORT_CBPF: Final = 51  # asm-generic/socket.h
# linux/filter.h: offsets from the start of the network header
_NETWORK_HEADER: Final = 0xFFF00000
_LOAD_BYTE, _LOAD_HALF, _SHIFT_RIGHT, _JUMP, _JUMP_EQUAL, _MODULO = 0x30, 0x28, 0x74, 0x05, 0x15, 0x94
_RETURN: Final = 0x06
_BLOCK: Final = 4  # ports in blocks of 16: the best for two to eight workers within 2 %


class ListenError(Exception):
    """The address cannot be listened on; the message says why."""


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` sockets that listen on one port; port 0 takes a free one. Raises ListenError where it is taken.

    SO_REUSEPORT alone would silently share the port with another server of the same user: the first bind is without.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ListenError(f"cannot listen on {host}: {error.strerror}") from error
    listeners: list[socket.socket] = []
    try:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
            address = (address[0], probe.getsockname()[1], *address[2:])
        for _ in range(count):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
            _keep_alive(listener)
            listener.setblocking(False)
            listener.bind(address)
            listener.listen(BACKLOG)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise ListenError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    steer(listeners, range(count))
    return listeners


def _keep_alive(listener: socket.socket) -> None:
    """Find out within two minutes that an idle peer has vanished: a WebSocket may be silent for days."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4)):
        listener.setsockopt(socket.IPPROTO_TCP, option, value)


def steer(listeners: Sequence[socket.socket], alive: Sequence[int]) -> None:
    """Send new connections to these listeners only, in turn by the client's port.

    Where the kernel does not take the program, its own hash over all of them stays in force.
    """
    if not listeners or not alive:
        return
    code = [
        (_LOAD_BYTE, 0, 0, _NETWORK_HEADER),
        (_SHIFT_RIGHT, 0, 0, 4),
        (_JUMP_EQUAL, 0, 2, 6),  # IP version 6?
        (_LOAD_HALF, 0, 0, _NETWORK_HEADER + 40),
        (_JUMP, 0, 0, 1),
        (_LOAD_HALF, 0, 0, _NETWORK_HEADER + 20),
        (_SHIFT_RIGHT, 0, 0, _BLOCK),
        (_MODULO, 0, 0, len(alive)),
    ]
    for number, index in enumerate(alive):
        code += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, index)]
    code.append((_RETURN, 0, 0, alive[0]))
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in code))
    with suppress(OSError):
        listeners[0].setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", len(code), ctypes.addressof(program))
        )
