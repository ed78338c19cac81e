"""``python -m revirt`` is ``revirt``."""

import sys

from revirt.cli import main

if __name__ == "__main__":
    sys.exit(main())
