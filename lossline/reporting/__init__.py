"""Figures and the report of a study: they read tables and fits, and know nothing of models."""
