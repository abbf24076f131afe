"""Compare the levels of a factor at equal budgets: which gives the lowest loss on each target?

Runs in, one loss per target, level and seed out, with intervals over seeds and average ranks.
"""
