"""Google Cloud Storage: paths, whole objects, and one writer by conditional create.

Nothing here is imported until a ``gs://`` path is given; local paths never pass through it.
"""
