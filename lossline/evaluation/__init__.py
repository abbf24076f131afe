"""Measure losses: definitions, windows, packing, scoring, rows of the loss table."""
