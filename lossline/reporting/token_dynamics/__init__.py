"""The report of token dynamics, and its page of text with colored tokens."""
