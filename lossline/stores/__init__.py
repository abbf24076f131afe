"""Token stores and benchmark stores: ids as zarr arrays beside a manifest of hashes."""
