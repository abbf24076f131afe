"""Training: options, objective, optimizer, step, loop, checkpoints, metrics, run directory.

Nothing is imported here: reading a run directory must not import JAX.
"""
