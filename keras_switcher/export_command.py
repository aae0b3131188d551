"""`keras-switcher-export`: the export's command, wherever this installation has the export."""

import importlib
import importlib.util


def main() -> int:
    """Run the command.

    A wheel holds the export as `keras_switcher.export`; a checkout, and an editable install of it,
    has it beside this package.

    Returns:
        The exit status.
    """
    is_in_wheel = importlib.util.find_spec("keras_switcher.export") is not None
    export = "keras_switcher.export" if is_in_wheel else "export"
    return int(importlib.import_module(f"{export}.command").main())
