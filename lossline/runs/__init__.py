"""Run directories: their files, checkpoints, and how they are restored."""
