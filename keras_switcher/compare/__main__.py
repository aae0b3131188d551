"""`python -m keras_switcher.compare`."""

import sys

from keras_switcher.compare.command import main

if __name__ == "__main__":
    sys.exit(main())
