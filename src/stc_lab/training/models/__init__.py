"""Toy models of every backbone: the official modules and token geometry at small widths, and what they start from."""
