"""The server under the page: what one visitor, or a hundred, can take of this machine is bounded.

Waitress reads all connections in one thread, so one that is opened and left costs a socket and no
thread; only whole requests reach the few threads that answer.
"""

import logging
import resource
import socket
import time

from flask import Flask
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer, create_server

from fl_privacy_audit.core.errors import ConfigError

THREADS = 8
CONNECTIONS = 512
"""Open at once, or half of what the system allows the process; the rest waits to be let in."""
HEADER_BYTES = 8 * 1024
BODY_BYTES = 64 * 1024
REQUEST_SECONDS = 10
"""A request that is not whole after these is dropped, however slowly it goes on."""
IDLE_SECONDS = 30
"""A connection on which nothing happens is closed after these."""


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection whose requests have a deadline; Waitress itself asks only that something comes."""

    begun = 0.0

    def received(self, data: bytes) -> bool:
        """Note when a request began."""
        if self.request is None:
            self.begun = time.monotonic()
        return bool(super().received(data))

    def readable(self) -> bool:
        """Asked at least once a second; a request that is late ends its connection."""
        if self.request is not None and time.monotonic() - self.begun > REQUEST_SECONDS:
            self.will_close = True
        return bool(super().readable())


def listen(app: Flask, host: str, port: int) -> TcpWSGIServer:
    """A server on that address; port 0 is any that is free.

    Raises:
        ConfigError: It is taken, or not of this machine.
    """
    for name in ("waitress", "waitress.queue"):
        logging.getLogger(name).setLevel(logging.ERROR)
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    place = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((host, port))
        place.listen()  # a second server on this port learns of it here
    except OSError as error:
        place.close()
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error.strerror}; give another --port or --host"
        ) from error
    server = create_server(
        app,
        sockets=[place],
        threads=THREADS,
        connection_limit=min(CONNECTIONS, allowed // 2),
        max_request_header_size=HEADER_BYTES,
        max_request_body_size=BODY_BYTES,
        channel_timeout=IDLE_SECONDS,
        cleanup_interval=5,
        asyncore_use_poll=True,  # select knows no more than 1024 sockets
        ident=None,  # no `Server` header
    )
    server.channel_class = Channel
    return server
