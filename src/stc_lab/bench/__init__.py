"""Time per frame, compressed against uncompressed in one run: ``python -m stc_lab.bench``."""
