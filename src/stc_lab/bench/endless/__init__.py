"""Streams that do not end, on every backbone: time per frame early and late, bytes against formulas."""
