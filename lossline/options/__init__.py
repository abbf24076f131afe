"""What defines a run: the identity of its options."""
