"""``python -m stc_lab``."""

from __future__ import annotations

from stc_lab.cli import main

if __name__ == "__main__":
    main()
