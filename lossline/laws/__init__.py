"""Scaling laws, the solver that fits them and the bootstrap over runs. Knows no loss table."""
