"""From a loss table to a folder of results: every line, law, hold-out and verdict."""
