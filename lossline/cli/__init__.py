"""The edge: command lines, gin files, and the verbs that join rooms. Only this room knows gin."""
