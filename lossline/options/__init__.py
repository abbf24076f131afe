"""What defines a run: the identity of its options and their roles; as columns and as gin text."""
