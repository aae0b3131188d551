"""`serve`: the exported files of a run, running in a browser."""

import functools
import signal

from rich.console import Console

from keras_switcher.display import say
from keras_switcher.signals import Interrupted

from .bundle import write_bundle
from .errors import ExportError
from .options import ServeOptions
from .server import PageServer
from .site import site

_PORT = 8640


def serve(options: ServeOptions, console: Console) -> None:
    """Serve the page of a run until Ctrl-C, or write it into a folder.

    Args:
        options: The command's options.
        console: Where to say which address to open.

    Raises:
        ExportError: If there is nothing to show, or the page can't be served or written there.
        WriteError: If the bundle can't be written.
        Interrupted: After SIGTERM.
    """
    assets = site(options.run)
    if options.bundle is not None:
        write_bundle(assets, options.bundle)
        say(console, f"Page: {options.bundle} (static files, for any web host)")
        return
    with _server(options) as server:
        here, *elsewhere = server.addresses()
        say(console, f"Open {here}" + (" on this machine" if elsewhere else ""))
        for address in elsewhere:
            say(console, f"Open {address} on a phone in the same network")
        if not server.is_local:
            say(
                console,
                "On other devices, over plain http, a browser gives the page neither its camera "
                "view nor use without a network; docs/browser.md has the way over https.",
            )
        else:
            say(console, "For a phone in the same network: --host 0.0.0.0")
        say(console, "Ctrl-C ends it.")
        try:
            server.serve_forever(poll_interval=0.1)
        except Interrupted as interrupted:
            if interrupted.exit_status != 128 + signal.SIGINT:
                raise
            say(console, "Ended.")


def _server(options: ServeOptions) -> PageServer:
    """Return a server on the port that was asked for, or on one of which browsers know the page.

    What a browser keeps of a page belongs to the port, too: on another one each time, it would keep
    one page after the other.
    """

    def on(port: int) -> PageServer:
        return PageServer(
            functools.partial(site, options.run), options.host, port, options.allowed_hosts
        )

    if options.port is not None:
        return on(options.port)
    try:
        return on(_PORT)
    except ExportError:
        return on(0)
