"""Measuring losses: definitions, windows, packing, scoring, and the rows of the loss table."""
