"""Which factor moved the line? Compare lines of runs that match in everything except one factor.

    attribution = attribute(tables.load("losses.parquet"))
    attribution.ranking, attribution.factor("pretraining_data").sentence

Method, for each factor that a study varies and each evaluation set:

1. Find the groups of runs that differ only in this factor (``lossline.matching``).
2. Compare the losses of its levels at equal x (``comparison``). Up to three levels of a number, and
   all levels of a word, are compared pair by pair; four or more levels of a number are compared by
   their trend in the logarithm.
3. Correct the p-values for the number of comparisons (Holm 1979).
4. Before the verdict "does not move": also test groups of runs, the shape of a trend, and each
   level against the others; and show that every move lies within a fixed margin.

Both axes are in nats per token, and a second time in bits per byte: a tokenizer may move a line in
one unit only. ``docs/how_lossline_decides.md`` explains it with pictures.

No fitted line is used. A shifted power law fitted per group would add its own error: its parameters
depend on each other, it fails for groups with few or flat points, and a misfit of its shape would
look like a move between levels that cover different ranges of x. The comparison only needs the
measured losses: in each matched group, all levels share one flexible curve (a polynomial), and the
move is their difference at equal x within the range that they have in common. So a verdict exists
where no line can be fitted, and it does not depend on the law.
"""

from lossline.attribution.analysis import neutral_set
from lossline.attribution.attribute import attribute
from lossline.attribution.options import AttributionOptions

__all__ = ["AttributionOptions", "attribute", "neutral_set"]
