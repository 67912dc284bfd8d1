"""Names of the files in a run folder that belong to no single module."""

from __future__ import annotations

CONFIG_FILE = "config.yaml"
IDENTITY_FILE = "fingerprint.json"
DUPLICATE_FILE = "duplicate_of.json"
BASELINE_DIR = "baseline"
