"""Training: options, objective, optimizer, step, loop and metrics."""
