"""Predict benchmark scores from scale."""
