"""From scale to benchmark scores."""
