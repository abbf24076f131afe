"""Select pages: scores and a pool in, a folder of selections out."""
