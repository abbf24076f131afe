"""Per-token losses of a fixed sample of a token store, under the checkpoints of runs."""
