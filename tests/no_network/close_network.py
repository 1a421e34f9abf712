"""Close the network for one Python process: only connections within the machine are left (Unix sockets, loopback)."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any


def _is_local(host: object) -> bool:
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return host in ("localhost", "", None)


def close() -> None:
    """Make every connection and name look-up that would leave the machine raise ``OSError``."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def checked(original: Any) -> Any:
        def call(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
                raise OSError(f"the network is closed in tests: connect to {address!r}")
            return original(self, address)

        return call

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_local(host):
            raise socket.gaierror(f"the network is closed in tests: look up {host!r}")
        return getaddrinfo(host, *args, **kwargs)

    socket.socket.connect = checked(connect)  # type: ignore[method-assign]
    socket.socket.connect_ex = checked(connect_ex)  # type: ignore[method-assign]
    socket.getaddrinfo = look_up
