"""`python -m testnet.model`. Writes to the terminal."""

from __future__ import annotations

import sys

from testnet.model.commands import app

if __name__ == "__main__":
    sys.exit(app())
