"""Which factor moved the line? Tests of "one line, or a line per level" on runs matched in
everything else.

    attribution = attribute(tables.load("losses.parquet"))
    attribution.ranking, attribution.factor("pretraining_data").sentence

For every factor that a study varies and every evaluation set: take the groups of runs that differ
in this factor alone (`matching`), compare the lines of its levels at equal x (`line_test`), and
correct the p-values for the number of comparisons (Holm 1979). Three levels of a number or any
levels of a word are compared pair by pair; more levels of a number by their trend in its logarithm.
Before a factor is said not to move the line, its groups of runs, the shape of its trend and each
level against the others are tested too, and every move must be shown to lie within a fixed margin.
Both axes of a line are in nats per token, and once more in bits per byte: a tokenizer may move a
line in the one and not in the other. docs/how_lossline_decides.md tells it with pictures.
"""

from lossline.attribution.analysis import neutral_set
from lossline.attribution.attribute import attribute
from lossline.attribution.options import AttributionOptions

__all__ = ["AttributionOptions", "attribute", "neutral_set"]
