"""Training batches of one store or a mixture, as a pure function of (fingerprint, seed, k)."""
