"""`python -m creche` is `creche`."""

from __future__ import annotations

from creche.cli.app import main

if __name__ == "__main__":
    main()
