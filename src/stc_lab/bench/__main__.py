"""``python -m stc_lab.bench``."""

from __future__ import annotations

from stc_lab.bench.app import main

if __name__ == "__main__":
    main()
