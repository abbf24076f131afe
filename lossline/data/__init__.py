"""From text to batches: vocabularies, token stores, benchmark stores, the order of windows.

Everything that training and evaluation read (``token_store``, ``task_store``, ``batches``) starts
in milliseconds and knows no TensorFlow; ``seqio_tasks`` and ``seqio_vocabularies`` import it, and
only ``lossline.prepare`` imports them.
"""
