"""`creche` and `python -m creche`: what runs before anything else is loaded."""

from __future__ import annotations

import os
import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line. Ctrl-C ends it without a word from its first moment on."""
    try:
        # In here: loading it takes a moment, in which people change their minds.
        from creche.cli.app import main as run

        run()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        raise


if __name__ == "__main__":
    main()
