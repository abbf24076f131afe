"""The study of the runs that are planned next, as the text of a gin file."""
