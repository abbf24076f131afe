"""lossline: loss-to-loss studies of language models.

Importing the package imports nothing heavy; every room (``lossline.models``, ``lossline.laws``,
…) is imported separately.
"""

__version__ = "0.1.0"
