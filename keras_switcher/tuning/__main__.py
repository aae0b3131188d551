"""`python -m keras_switcher.tuning`."""

import sys

from keras_switcher.tuning.command import main

if __name__ == "__main__":
    sys.exit(main())
