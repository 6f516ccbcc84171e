"""Whether an address is this machine's: only the GPUs of such a server can be read here."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit


def is_this_machine(url: str) -> bool:
    """Whether the server's address is one of this machine's, which is one that a socket can be bound to.

    Raises:
        OSError: an unknown name.
    """
    for family, kind, protocol, _, address in socket.getaddrinfo(urlsplit(url).hostname, 0, type=socket.SOCK_DGRAM):
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind(address)
            except OSError:
                continue
            return True
    return False
