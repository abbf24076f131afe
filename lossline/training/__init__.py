"""Training: options, objective, optimizer, step, loop and metrics.

This file imports nothing, so that reading a run directory does not import JAX.
"""
