"""Sources of text and benchmark questions: released packages, files, TFDS and seqio."""
