"""From a loss table to a folder of results: all lines, laws, held-out predictions and verdicts.

``fitting`` fits everything, ``results`` holds it as one object, ``files`` writes and reads it.
"""
