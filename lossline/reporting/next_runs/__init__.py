"""The report of a plan of next runs, and its figure."""
