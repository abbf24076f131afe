"""Training objectives: which target tokens a step trains on, and the loss that it minimizes.

This file imports nothing, so that reading options does not import JAX.
"""
