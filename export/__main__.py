"""`python -m export`: write, verify and measure TFLite files; `--help` shows how."""

import os
import sys

os.environ["KERAS_SWITCHER_FLAGS_FIRST"] = "1"

from .command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
