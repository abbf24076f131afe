"""Rank the pages of a pool for a target, and cut the ranking to a budget of tokens.

Clean the pool, rank its pages by a method, cut the ranking::

    pool = clean_pages(list(Pool(domains=("wiki", "pubmed")).pages()))
    ranking = Dsir().rank(pool.pages, SelectionTask(target="sciq", texts=texts, seed=0))
    selection = cut(pool.pages, ranking, budget=1_000_000, vocabulary=Bytes())
"""

from lossline.pages.cleaning import CleanPool, clean_pages
from lossline.pages.cut import Cut, Outcome, Shortage, cut
from lossline.pages.fasttext_classifier import FastText, FittedFastText
from lossline.pages.logistic import FittedLogistic, HashedLogistic
from lossline.pages.make_up import MakeUp, make_up
from lossline.pages.methods import (
    Dsir,
    LanguageFilter,
    Oracle,
    PageClassifier,
    PositiveClassifier,
    Sampling,
    Uniform,
)
from lossline.pages.overlap import Overlap, benchmark_overlap
from lossline.pages.task import (
    FittedModel,
    PageMethod,
    Ranking,
    SelectionTask,
    TextClassifier,
)
from lossline.pages.training import TrainingPages

__all__ = [
    "CleanPool",
    "Cut",
    "Dsir",
    "FastText",
    "FittedFastText",
    "FittedLogistic",
    "FittedModel",
    "HashedLogistic",
    "LanguageFilter",
    "MakeUp",
    "Oracle",
    "Outcome",
    "Overlap",
    "PageClassifier",
    "PageMethod",
    "PositiveClassifier",
    "Ranking",
    "Sampling",
    "SelectionTask",
    "Shortage",
    "TextClassifier",
    "TrainingPages",
    "Uniform",
    "benchmark_overlap",
    "clean_pages",
    "cut",
    "make_up",
]
