"""Text and benchmark questions: gathered from released packages, read from files, TFDS, seqio."""
