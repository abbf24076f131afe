"""Find runs that differ in only one factor: facts of runs, factors, matched groups.

``design`` prepares the facts of a loss table; ``Design.groups`` returns the matched groups of a
factor.
"""
