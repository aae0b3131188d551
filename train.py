"""Train a sparse network; `python train.py --help` shows the options."""

import os
import sys

os.environ["KERAS_SWITCHER_FLAGS_FIRST"] = "1"

try:
    from keras_switcher.training import main
except KeyboardInterrupt:
    # From here on, it is handled.
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
