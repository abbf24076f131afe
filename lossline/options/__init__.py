"""Options of a run: their identity, their roles, as table columns, as gin text."""
