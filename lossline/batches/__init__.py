"""Training batches as a pure function of (fingerprint, seed, k), of one store or a mixture."""
