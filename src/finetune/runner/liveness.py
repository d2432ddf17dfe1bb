"""A connection from each process on another machine to the first one: its end shows that a process or machine is gone.

The kernel closes a connection when its process ends, however that happens. If a machine no longer answers, the kernels
of both sides find out by keepalive probes, also while Python or a library holds the interpreter for minutes. So no
process has to report in time that it still exists, and a slow one is not taken for a lost one.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading

# A machine that does not answer counts as lost after 4 + 3 * 4 = 16 seconds.
_SECONDS_TO_PROBE = 4
_PROBES = 3
_SECONDS_TO_CONNECT = 5.0
_LONGEST_GREETING = 64  # bytes

KILLED = "was killed"
MACHINE_LOST = "no longer answers: its machine was lost, or the network to it"


class Listener:
    """The end of the connections in the first process."""

    def __init__(self) -> None:
        # On all addresses, because a machine may know itself by another one than the other machines do.
        if socket.has_dualstack_ipv6():
            self._socket = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            self._socket = socket.create_server(("", 0))
        self._token = secrets.token_hex(16)  # only who can read the run's store can connect
        self._connections: dict[int, socket.socket] = {}
        self._ended: dict[int, str] = {}
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def invitation(self) -> str:
        """What another process needs to connect."""
        return f"{self._socket.getsockname()[1]} {self._token}"

    def ended(self) -> dict[int, str]:
        """Return the processes whose connections have ended, by rank: how, in a few words."""
        for rank, connection in list(self._connections.items()):
            how = _how_ended(connection)
            if how:
                self._ended.setdefault(rank, how)  # the kernel says it only once
        return dict(self._ended)

    def _accept(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with contextlib.suppress(OSError, ValueError):
                connection.settimeout(_SECONDS_TO_CONNECT)
                token, rank = connection.recv(_LONGEST_GREETING).decode(errors="replace").split()
                if secrets.compare_digest(token.encode(), self._token.encode()):
                    _keep_alive(connection)
                    connection.send(b"\n")
                    self._connections[int(rank)] = connection
                    continue
            connection.close()


class Connection:
    """The end of the connection in process `rank`.

    Raises:
        OSError: there is no connection to this host.
    """

    def __init__(self, host: str, invitation: str, rank: int) -> None:
        port, token = invitation.split()
        self._socket = socket.create_connection((host, int(port)), timeout=_SECONDS_TO_CONNECT)
        _keep_alive(self._socket)
        self._socket.send(f"{token} {rank}".encode())
        if not self._socket.recv(1):
            raise ConnectionRefusedError("the first process of the run closed the connection")
        self._socket.settimeout(None)

    def wait_for_end(self) -> str:
        """Wait until the first process or its machine is gone, and return which, in a few words."""
        try:
            self._socket.recv(1)
        except OSError as error:
            return _describe(error)
        return KILLED


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": _SECONDS_TO_PROBE, "TCP_KEEPINTVL": _SECONDS_TO_PROBE, "TCP_KEEPCNT": _PROBES}
    for name, value in options.items():
        if hasattr(socket, name):  # macOS has only some of them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _how_ended(connection: socket.socket) -> str:
    try:
        connection.setblocking(False)
        connection.recv(1)
    except BlockingIOError:
        return ""
    except OSError as error:
        return _describe(error)
    return KILLED


def _describe(error: OSError) -> str:
    if isinstance(error, ConnectionError):
        return KILLED  # its kernel has answered that there is no such process
    return MACHINE_LOST
