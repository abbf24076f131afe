"""Token stores and task stores: zarr arrays of token ids, and a manifest with hashes."""
