"""The page of one or several multiruns: ``report.html``, which needs no network, and a report for W&B."""
