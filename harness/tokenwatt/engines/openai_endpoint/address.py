"""Where the server is: one address for every socket, found once."""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

PORTS = {"http": 80, "https": 443}
WITH_USER = "one with a user or a password"


def why_unfit(url: str) -> str | None:
    """What is wrong with an address, in words that repeat nothing that may be a key; None for a good one."""
    if "@" in url:
        without_path = re.split(r"[/?#]", url.partition("//")[2], maxsplit=1)[0]
        if "@" in without_path or "//" not in url:
            return WITH_USER
    try:
        parts = urlsplit(url)
        has_place = bool((parts.hostname or "").encode("idna")) and parts.port != 0
    except ValueError:  # a port that is no number or beyond 65535, brackets around no IPv6 address, or an empty label
        has_place = False
    else:
        if parts.query or parts.fragment:
            return "one with a query" if parts.query else "one with a fragment"
        if parts.scheme not in PORTS:
            return f"one whose scheme is {parts.scheme!r}" if parts.scheme and parts.netloc else "one without http://"
    return None if has_place else "one without a host, or with a port that is none"


@dataclass(frozen=True, slots=True)
class Address:
    """A server and the path under which it has its API."""

    is_tls: bool
    host: str
    port: int
    prefix: str
    """Path ahead of `/v1`, mostly empty."""
    ca_file: str | None = None

    @classmethod
    def of(cls, url: str, ca_file: str | None = None) -> Self:
        """Take a URL apart, which has been checked."""
        parts = urlsplit(url)
        return cls(
            parts.scheme == "https", parts.hostname or "", parts.port or PORTS[parts.scheme], parts.path.rstrip("/"),
            ca_file,
        )  # fmt: skip

    @property
    def host_header(self) -> str:
        """Name and port, as requests carry them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS["https" if self.is_tls else "http"] else f"{host}:{self.port}"

    def tls(self) -> ssl.SSLContext | None:
        """What an https server is judged by; None for http."""
        return ssl.create_default_context(cafile=self.ca_file) if self.is_tls else None

    def find(self, timeout_s: float) -> Target:
        """Where the server takes connections: its name may stand for several addresses, not all of them in use.

        Raises:
            OSError: nowhere, or an unknown name.
        """
        with socket.create_connection((self.host, self.port), timeout_s) as probe:
            return Target(probe.family, probe.getpeername(), self.host)


@dataclass(frozen=True, slots=True)
class Target:
    """What a socket connects to."""

    family: socket.AddressFamily
    address: tuple[str | int, ...]
    host: str
    """Name that the server's certificate must have."""
