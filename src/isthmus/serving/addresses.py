"""Where a server listens, and under which names it is reached."""

from __future__ import annotations

import errno
import ipaddress
import socket

from isthmus.errors import UsageError

AT_ONCE = 256  # connections


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def listening(host: str, port: int) -> socket.socket:
    """A socket, before anything slow is loaded. Raises `UsageError` for an address that cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=AT_ONCE)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} of {host} is in use. Name another (--port), or 0 for a free one.") from None
        raise UsageError(f"cannot listen at {host}, port {port}: {error.strerror or error}.") from None
    except OverflowError:
        raise UsageError(f"port {port}: a number from 0 to 65535.") from None


def address(host: str, port: int) -> str:
    """What a browser on this machine opens."""
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"


def own_names(host: str) -> list[str]:
    """The names of this machine under which it is reached at `host`."""
    named = [f"[{host}]" if ":" in host else host]
    return named if is_loopback(host) else [*named, socket.gethostname(), *_addresses()]


def _addresses() -> list[str]:
    """The addresses of this machine's name."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [f"[{one[4][0]}]" if one[0] == socket.AF_INET6 else str(one[4][0]) for one in found]
