"""``python -m embodied``."""

from __future__ import annotations

import sys

from embodied.cli import main

if __name__ == "__main__":
    sys.exit(main())
