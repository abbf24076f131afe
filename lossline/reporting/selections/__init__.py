"""The report of a selection of pages."""
