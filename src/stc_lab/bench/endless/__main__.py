"""``python -m stc_lab.bench.endless``."""

from __future__ import annotations

from stc_lab.bench.endless.app import main

if __name__ == "__main__":
    main()
