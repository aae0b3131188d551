"""The server behind `serve`: it answers with the files of one site, and with nothing else."""

import contextlib
import errno
import hashlib
import http.server
import ipaddress
import logging
import socket
import sys
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from keras_switcher import __version__

from .errors import ExportError
from .site import ENCODINGS, START, Asset, content_type

logger = logging.getLogger("keras_switcher.export")

# Together with the one below, the first two isolate the page from other origins. Without that, a
# browser gives no shared memory to WebAssembly's threads, and only a coarse clock. The last allows
# the page to load and request only its own files.
HEADERS = {
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
# Over plain http, browsers accept it only from this machine, and report an error elsewhere.
ISOLATION = ("Cross-Origin-Opener-Policy", "same-origin")
_SECONDS = 30.0
"""How long a connection may be silent."""


class PageServer(http.server.ThreadingHTTPServer):
    """A server of one site.

    Args:
        find: Returns the files, by their paths below the address. It is asked at each request, so
            that after a new export, what is told of the files is told of the new ones.
        host: Name or address to listen on.
        port: Port to listen on; 0 for any that is free.
        allowed_hosts: Names under which browsers may ask for the page, besides addresses,
            localhost, `host` and this machine's own name. Any other name is refused: a hostile site
            could have its own name lead here, and read the files as if they were its own (DNS
            rebinding).

    Raises:
        ExportError: If it can't listen there.
    """

    daemon_threads = True

    def __init__(
        self,
        find: Callable[[], Mapping[str, Asset]],
        host: str,
        port: int,
        allowed_hosts: Iterable[str] = (),
    ):
        self.find = find
        self.host = host
        own = socket.gethostname().partition(".")[0]
        names = ("localhost", own, f"{own}.local", socket.gethostname(), host, *allowed_hosts)
        self.names = frozenset(name.lower() for name in names)
        try:
            family, *_, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self.address_family = family
            super().__init__((str(address[0]), int(address[1])), _PageRequest)
        except OSError as error:
            raise ExportError(_why_not(error, host, port)) from error
        except UnicodeError as error:
            raise ExportError(
                f"Expected a name or an address as --host. Received: {host}"
            ) from error

    def server_bind(self) -> None:
        """Bind the socket, without asking name servers what this machine is called."""
        super(http.server.HTTPServer, self).server_bind()
        self.server_name, self.server_port = self.host, self.socket.getsockname()[1]

    def addresses(self) -> list[str]:
        """Return the addresses to open, the one for this machine first."""
        bound = ipaddress.ip_address(self.socket.getsockname()[0])
        hosts = [str(bound)]
        if bound.is_unspecified:
            hosts = ["127.0.0.1" if bound.version == 4 else "::1"]
            if (own := _address_in_network(self.address_family)) is not None:
                hosts.append(own)
        names = [f"[{host}]" if ":" in host else host for host in hosts]
        return [f"http://{name}:{self.server_port}/" for name in names]

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.socket.getsockname()[0]).is_loopback

    def answers_to(self, name: str) -> bool:
        """Return whether a browser that asks for the page under this name gets it."""
        if name.lower() in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with a connection; a browser that goes away is not an error."""
        error = sys.exception()
        if isinstance(error, (ConnectionError, TimeoutError)):
            logger.debug("A connection of %s ended early.", client_address, exc_info=True)
        else:
            logger.warning(
                "A request of %s could not be answered: %s: %s",
                client_address[0],
                type(error).__name__,
                error,
                exc_info=logger.isEnabledFor(logging.DEBUG),
            )


class _PageRequest(http.server.BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version = f"keras_switcher/{__version__}"
    sys_version = ""
    timeout = _SECONDS
    # Headers and content would otherwise wait for each other's acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def _answer(self, *, with_content: bool) -> None:
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            # What comes with the request is not read; it would be taken for the next one.
            self.close_connection = True
        if "Host" in self.headers and not self.server.answers_to(self._host()):
            self.send_error(
                HTTPStatus.MISDIRECTED_REQUEST,
                explain="This server does not answer under that name. If it is yours, such as that "
                "of a proxy before it, start the server with it as one of --allowed-hosts",
            )
            return
        path = self.path.partition("?")[0].partition("#")[0]
        if path.lower().startswith(("http://", "https://")):
            # As to a proxy; a server has to take this form, too (RFC 9112, 3.2.2).
            path = f"/{path.partition('://')[2].partition('/')[2]}"
        name = urllib.parse.unquote(path)
        name = name.removeprefix("/") or START
        try:
            asset = self.server.find().get(name)
        except (ExportError, OSError) as error:
            # An export may be under way there. The reason has paths of this machine in it.
            logger.warning("%s", error)
            self.send_error(
                HTTPStatus.SERVICE_UNAVAILABLE,
                explain="The export is not complete. Reload once it is; the server says more",
            )
            return
        if asset is None:
            self.send_error(HTTPStatus.NOT_FOUND, "Not a file of this page")
            return
        encoding = _encoding(asset, self.headers.get("Accept-Encoding", ""))
        try:
            content = asset.read(encoding)
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND, "The file was removed")
            return
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        is_known = tag in self.headers.get("If-None-Match", "")
        self.send_response(HTTPStatus.NOT_MODIFIED if is_known else HTTPStatus.OK)
        self.send_header("ETag", tag)
        self.send_header(
            "Cache-Control",
            "public, max-age=31536000, immutable" if asset.is_fixed else "no-cache",
        )
        if asset.encoded:
            self.send_header("Vary", "Accept-Encoding")
        if not is_known:
            self.send_header("Content-Type", content_type(name))
            self.send_header("Content-Length", str(len(content)))
            if encoding is not None:
                self.send_header("Content-Encoding", encoding)
        self.end_headers()
        if with_content and not is_known:
            self.wfile.write(content)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if self._is_trusted():
            self.send_header(*ISOLATION)
        super().end_headers()

    def _is_trusted(self) -> bool:
        """Return whether browsers trust the address: this machine, or https in front of it."""
        if not hasattr(self, "headers"):  # missing if the request could not be read
            return False
        host = self._host()
        is_local = host == "localhost" or host == "::1" or host.startswith("127.")
        return is_local or self.headers.get("X-Forwarded-Proto") == "https"

    def _host(self) -> str:
        """Return the name or address, without a port, under which the page was asked for."""
        try:
            return urllib.parse.urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        except ValueError:  # such as half an IPv6 address
            return ""

    def log_message(self, format: str, *args: Any) -> None:
        text = f"{self.address_string()}: {format % args}"
        # A request could otherwise send a terminal what it obeys.
        logger.debug("%s", "".join(c if c.isprintable() else repr(c)[1:-1] for c in text))


def _encoding(asset: Asset, accepted: str) -> str | None:
    """Return the best encoding that the asset has and the browser accepts."""
    weights = {}
    for part in accepted.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
        with contextlib.suppress(ValueError):
            weights[name] = float(weight)
    for name in ENCODINGS:
        if name in asset.encoded and weights.get(name, 0) > 0:
            return name
    return None


def _address_in_network(family: int) -> str | None:
    """Return this machine's address in its network, if it is in one."""
    away = "192.0.2.1" if family == socket.AF_INET else "2001:db8::1"
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((away, 9))  # sends nothing: it only chooses the route
            return str(probe.getsockname()[0])
        except OSError:
            return None


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} of {host} is in use: end what listens there, or choose another --port; "
            "0 takes any that is free."
        )
    if error.errno == errno.EACCES:
        return f"May not listen on port {port}: choose a --port of 1024 or higher, or 0 for any."
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return (
            "Expected --host to be an address of this machine, such as 127.0.0.1, or 0.0.0.0 for "
            f"all of them. Received: {host}"
        )
    return f"Can't listen on {host}, port {port}: {error.strerror or error}."
