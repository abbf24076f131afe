"""Studies: a grid of runs as data, and the steps from text to report."""
