"""The files of the page for one run: which there are, what they are, and where they lie."""

import dataclasses
import functools
import json
import re
import shlex
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_switcher import __version__
from keras_switcher.programs import export_command

from .errors import ExportError
from .folder import EXPORT_FILE, PAGE_FILE

PAGE = Path(__file__).with_name("web") / "dist"
"""The built page."""
START = "index.html"
FACTS_FILE = "facts.json"
"""What the page reads first: `page.json`, and what `export.json` says about each file."""

# The same on every system; Python's own table does not have the last two everywhere.
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".tflite": "application/octet-stream",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}
# In the order in which they are preferred.
ENCODINGS = {"br": ".br", "gzip": ".gz"}

_MODEL_FILE = re.compile(r"model_[a-z0-9_]+\.tflite")
# What the page reads of `page.json`.
_NEEDED = (
    *("model", "dataset", "fc_sparsity", "inputs", "picture", "labels", "scores", "live_inputs"),
    *("examples", "takes_pixels"),
)
_KEPT = ("file", "kind", "precision", "purpose", "bytes", "accuracy", "problems")


@dataclasses.dataclass(frozen=True)
class Asset:
    """A file of the page, or of the run.

    Args:
        source: Its path, or its content if that was generated.
        encoded: The paths of its compressed forms, by encoding.
        is_fixed: Whether a file of this name never changes.
    """

    source: Path | bytes
    encoded: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    is_fixed: bool = False

    def read(self, encoding: str | None = None) -> bytes:
        """Return its bytes: as they are, or in an encoding that it has.

        Raises:
            OSError: If it is gone.
        """
        if encoding is not None:
            return self.encoded[encoding].read_bytes()
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


def site(run: Path, page: Path | None = None) -> dict[str, Asset]:
    """Return everything that the page of a run consists of, by its path below the page's address.

    Nothing else is ever served: a request is looked up here, and never becomes a path.

    Args:
        run: Folder of an exported run, or of an export.
        page: The built page; that of this installation by default.

    Raises:
        ExportError: If the page was not built, or the run was not exported.
    """
    assets = {name: asset for name, asset in _page(PAGE if page is None else page)}
    folder = export_folder(run)
    content, facts = _json(folder / EXPORT_FILE), _json(folder / PAGE_FILE)
    if missing := [f"`{name}` in {PAGE_FILE}" for name in _NEEDED if name not in facts]:
        raise _of_an_earlier_version(run, ", ".join(missing))
    entries = content.get("artifacts", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ExportError(
            f"{folder / EXPORT_FILE} is damaged: expected a list of files as `artifacts`. Export "
            "again."
        )
    files = []
    for entry in entries:
        known = {name: entry.get(name) for name in _KEPT}
        known["problems"] = list(known["problems"] or ())
        name = str(known["file"])
        path = folder / name
        if not _MODEL_FILE.fullmatch(name) or path.is_symlink():
            raise ExportError(
                f"Expected files that an export wrote in {folder / EXPORT_FILE}. Received: {name!r}"
            )
        if path.is_file():
            found = path.stat()
            known["bytes"] = found.st_size
            known["crc32"] = _crc32(path, found.st_size, found.st_mtime_ns)
            if known["crc32"] != entry.get("crc32", known["crc32"]):
                known["problems"].append("it was changed after the export")
            assets[name] = Asset(path)
        elif not known["problems"]:
            known["problems"] = ["it was removed from the folder after the export"]
        files.append(known)
    if not any(file["file"] in assets for file in files):
        raise ExportError(f"No file in {folder} can be shown: run `{_export(run)}` again.")
    facts |= {"files": files, "batch": content.get("batch", 1), "keras_switcher": __version__}
    assets[FACTS_FILE] = Asset(json.dumps(facts).encode())
    return assets


@functools.lru_cache(maxsize=64)
def _crc32(path: Path, size: int, modified: int) -> int:
    """Return a number that tells the content of a file from another of the same size.

    Args:
        path: The file.
        size: Its bytes.
        modified: When it was written: a file that has changed is read again.
    """
    try:
        return zlib.crc32(path.read_bytes())
    except OSError as error:
        raise ExportError(f"Can't read {path}: {error.strerror}.") from error


def content_type(name: str) -> str:
    """Return the MIME type of a file of the site."""
    return TYPES[Path(name).suffix]


def export_folder(run: Path) -> Path:
    """Return the folder of a run's export; `run` may also be that folder itself.

    Raises:
        ExportError: If there is none.
    """
    if not run.exists():
        raise ExportError(
            f"Expected the folder of a run, or of an export. Received: {run}, which does not exist"
        )
    if not run.is_dir():
        raise ExportError(
            f"Expected the folder of a run, or of an export. Received: {run}, which is a file"
        )
    folder = run / "export" if (run / "export").is_dir() else run
    if not (folder / EXPORT_FILE).is_file():
        raise ExportError(f"{run} was not exported yet: run `{_export(run)}` first.")
    if not (folder / PAGE_FILE).is_file():
        raise _of_an_earlier_version(run, PAGE_FILE)
    return folder


def _of_an_earlier_version(run: Path, missing: str) -> ExportError:
    return ExportError(
        f"The export in {run} is of an earlier version, without {missing}: run `{_export(run)}` "
        "again."
    )


def _export(run: Path) -> str:
    return f"{export_command(__package__)} {shlex.quote(str(run))}"


def _page(page: Path) -> Iterator[tuple[str, Asset]]:
    if not (page / START).is_file():
        raise ExportError(
            "The page is not built: run `make web` in the checkout, which needs Node.js and npm. "
            f"(An installed package that was built without it has none.) Expected: {page / START}"
        )
    endings = tuple(ENCODINGS.values())
    for path in sorted(page.rglob("*")):
        if not path.is_file() or path.name.endswith(endings):
            continue
        name = path.relative_to(page).as_posix()
        encoded = {
            encoding: other
            for encoding, ending in ENCODINGS.items()
            if (other := path.with_name(path.name + ending)).is_file()
        }
        yield name, Asset(path, encoded=encoded, is_fixed=name.startswith("assets/"))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"Can't read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ExportError(f"{path} is damaged: {error}. Export again.") from error
    if not isinstance(found, dict):
        raise ExportError(f"{path} is damaged: expected an object. Export again.")
    return found
