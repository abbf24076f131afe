"""Loss-to-loss lines: fit, interval, hold-out and translation."""
