"""What the wheel holds of `export/`: its Python files and the built page."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "keras_switcher/export"
PAGE = Path("export", "web", "dist")


class ExportHook(BuildHookInterface[Any]):
    """Adds `export/` under the name that it has in the wheel, file by file.

    A mapping in `pyproject.toml` would take the folder as a whole, with the sources of the page and
    the tools that build it.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Choose the files of a wheel; an editable install leaves them where they are."""
        if version == "editable":
            return
        root = Path(self.root)
        export = root / "export"
        files = [p for p in export.rglob("*.py") if "web" not in p.relative_to(export).parts]
        page = [path for path in (root / PAGE).rglob("*") if path.is_file()]
        if not page:
            self.app.display_warning(
                f"Expected the built page in {PAGE}. Received: none, so that `serve` will not work "
                "in this wheel. `make web`, which needs Node.js and npm, builds it."
            )
        for path in (*files, *page):
            name = path.relative_to(export).as_posix()
            build_data["force_include"][str(path)] = f"{PACKAGE}/{name}"
