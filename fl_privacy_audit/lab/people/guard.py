"""Who may talk to the page: this machine, unless told; and no other web site, ever.

A page of another site can make a browser send requests here. It cannot read the form's token, its
posts carry its own `Origin`, and a name that it points at this machine (DNS rebinding) arrives as
a foreign `Host`.
"""

import ipaddress
import secrets
import socket
from collections.abc import Callable

from flask import Flask, Response, abort, request

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",  # with "no-referrer" browsers would hide the `Origin` too
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""What OWASP's ASVS (5.0, chapters 3 and 14) asks of every reply, but for HSTS: there is no TLS."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on that address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def allows(host: str) -> Callable[[str], bool]:
    """Which names in a `Host` header are ours, for a server that listens on `host`.

    On the open network any bare address is taken: rebinding needs a name.
    """
    ours = LOOPBACK | {host.lower()}
    if is_loopback(host):
        return ours.__contains__
    ours |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def known(name: str) -> bool:
        return name in ours or _is_address(name)

    return known


def protect(app: Flask, *, host: str, token: str) -> None:
    """Refuse foreign hosts and cross-site posts; add the headers."""
    known = allows(host)

    def check() -> None:
        if not known(_name(request.host)):
            abort(403, "This address is not served here. Open the one that the command printed.")
        if request.method != "POST":
            return
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"{request.scheme}://{request.host}":
            abort(403, "This answer came from another site and was not taken.")
        if not secrets.compare_digest(request.form.get("token", "").encode(), token.encode()):
            abort(403, "This form is not of this server. Load the page again.")

    def finish(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response

    app.before_request(check)
    app.after_request(finish)


def _name(host: str) -> str:
    """The `Host` header without its port and brackets, lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
