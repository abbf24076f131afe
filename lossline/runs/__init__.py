"""Run directories: their files, their checkpoints, and how to restore them.

This file imports nothing, so that reading a run directory does not import JAX.
"""
