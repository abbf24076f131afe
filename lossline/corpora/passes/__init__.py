"""Passes over documents that do not fit into memory: sort by hash, drop repeats, write splits."""
