"""``python -m jpegdl``: the command ``jpegdl``."""

import sys

from jpegdl.cli import main

if __name__ == "__main__":
    sys.exit(main())
