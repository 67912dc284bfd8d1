"""``python -m stc_lab.report``."""

from __future__ import annotations

from stc_lab.report.app import main

if __name__ == "__main__":
    main()
