"""Run directories: their files, their checkpoints, and how to restore them."""
