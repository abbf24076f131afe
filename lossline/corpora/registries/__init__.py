"""Package registries: fetch files with their tools, and read the archives."""
