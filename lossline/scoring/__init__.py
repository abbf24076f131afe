"""Score models on the pages of a pool: one row per model and domain, resumable by shard."""
