"""Ahead-of-time compilation of a training step: memory, operations, traffic and a roofline."""
