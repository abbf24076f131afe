"""Registered corpora, by kind of text."""
