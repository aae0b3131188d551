"""How to add what only some of this package needs."""

import json
import shlex
from importlib import metadata
from urllib.parse import urlparse
from urllib.request import url2pathname

_NAME = "keras-switcher"


def install_command(extra: str) -> str:
    """Return the command that adds an extra to this package, from where it was installed.

    Args:
        extra: Name of the extra, "tune" for example.

    Reference:
        The [record of an installation's origin](https://packaging.python.org/en/latest/specifications/direct-url/)
        that pip writes, and does not write for what comes from a registry.
    """
    wanted = f"{_NAME}[{extra}]"
    try:
        written = metadata.distribution(_NAME).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        written = None
    if written:
        origin = json.loads(written)
        url = origin["url"]
        if "vcs_info" in origin:
            wanted += f" @ {origin['vcs_info']['vcs']}+{url}"
        elif url.startswith("file:"):
            wanted = f"{url2pathname(urlparse(url).path)}[{extra}]"
        else:
            wanted += f" @ {url}"
    return f"pip install {shlex.quote(wanted)}"
