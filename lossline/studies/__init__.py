"""Studies: a grid of runs as data, and the steps that turn text into a report."""
