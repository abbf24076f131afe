"""Command lines: gin files, options, and the verbs that join rooms. Only this room uses gin."""
