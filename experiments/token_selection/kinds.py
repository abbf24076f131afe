"""What each rule selects: tokens of the target kind, of other text, and of each kind of noise.

Needs the finished study, and the base model's scores of the same tokens:

    python -m lossline.score --tokens --gin_file=gin_configs/evaluation/token_scores.gin \\
        --run runs/token_selection/base --stores data/stores/bpe2048_web/noisy/train \\
        --out runs/token_selection/scores/base
    python experiments/token_selection/kinds.py

Writes kinds.csv and kinds.png next to this file. Excess loss is that of the first step: the base
model's nats minus the reference's.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import lossline.prepare
from lossline import vocabularies
from lossline.cli.configuration import build_options
from lossline.corpora.noisy import Noisy
from lossline.objectives.corpus_choice import choose
from lossline.reporting.appearance import COLORS
from lossline.reporting.figures import new_figure, publication_style
from lossline.stores.prepare_all import vocabulary_spec
from lossline.stores.token_scores import ReferenceScore, TokenScores
from lossline.stores.token_store import TokenStore

HERE = Path(__file__).parent
STORES = "gin_configs/data/token_selection_stores.gin"
STORE = Path("data/stores/bpe2048_web/noisy/train")
SCORES = Path("runs/token_selection/scores")
SHARE = Fraction(3, 5)
FEWER = Fraction(2, 5)
NAMES = {
    "pubmed": "abstracts (the target kind)",
    "other": "other text",
    "markup": "markup",
    "words": "words in random order",
    "numbers": "numbers",
    "characters": "encoded characters",
}
RULES = {
    "excess loss, 40%": "v",
    "excess loss, 60%": "o",
    "self-reference: loss": "s",
    "self-reference: entropy": "D",
    "self-reference: both": "^",
}


def main() -> None:
    """Write the table and the figure."""
    store = TokenStore.open(STORE)
    kinds = kinds_of(store, noisy_source())
    base, reference, own = (nats(name) for name in ("base", "reference", "self_reference"))
    scored = np.isfinite(base)
    table = pd.DataFrame({"kind": kinds, "base": base, "reference": reference, "own": own})
    chosen = selections(base - reference, scored)
    means = table[scored].groupby("kind")[["base", "reference", "own"]].mean()
    means.columns = [f"nats, {name}" for name in ("base", "reference", "self-reference")]
    shares = pd.DataFrame({name: bits[scored] for name, bits in chosen.items()})
    shares = shares.groupby(kinds[scored]).mean()
    counts = pd.Series(kinds[scored]).value_counts(normalize=True).rename("share of tokens")
    found = pd.concat([counts, means, shares], axis=1).loc[list(NAMES)]
    found.round(4).to_csv(HERE / "kinds.csv", index_label="kind")
    print(found.round(3).to_string())
    chart(found).savefig(HERE / "kinds.png", dpi=200)


def noisy_source() -> Noisy:
    """Return the source of the store, as its gin file describes it."""
    options = build_options("prepare", lossline.prepare.load(), gin_files=[STORES], bindings=[])
    return options.stores[0].sets[1]


def kinds_of(store: TokenStore, source: Noisy) -> np.ndarray:
    """Return the kind of each token: a domain, "other", a kind of noise, or "end".

    A token that reaches over two pieces of a page has the kind of its first byte.
    """
    spec = vocabulary_spec(store.manifest.vocabulary.name, Path(source.root))
    widths = vocabularies.load(spec).token_bytes
    found = []
    for number, pieces in enumerate(source.pages()):
        width = widths[store.document(number)]
        starts = np.cumsum(width) - width
        ends = np.cumsum([len(piece.text.encode()) for piece in pieces])
        assert ends[-1] == width.sum(), f"page {number} is not document {number} of the store"
        names = [p.kind if p.kind in NAMES else "other" for p in pieces] + ["end"]
        found.append(np.array(names)[np.searchsorted(ends, starts, side="right")])
    return np.concatenate(found)


def nats(name: str) -> np.ndarray:
    """Return the nats of every token, float32 [tokens]."""
    blocks = TokenScores.open(str(SCORES / name)).whole("nats")
    return np.concatenate([block for _, block in blocks]).astype(np.float32)


def selections(excess: np.ndarray, scored: np.ndarray) -> dict[str, np.ndarray]:
    """Return the selected tokens of each rule, bool [tokens]."""
    order = np.argsort(np.where(scored, -excess, np.inf), kind="stable")
    largest = []
    for share in (FEWER, SHARE):
        bits = np.zeros(len(excess), bool)
        bits[order[: int(share * int(scored.sum()))]] = True
        largest.append(bits)
    own = TokenScores.open(str(SCORES / "self_reference"))
    both = (ReferenceScore.NATS, ReferenceScore.ENTROPY)
    chosen = [choose(SHARE, names, [own], [1])[0] for names in (both[:1], both[1:], both)]
    chosen_once = [np.unpackbits(packed)[: len(excess)].astype(bool) for packed in chosen]
    return dict(zip(RULES, [*largest, *chosen_once], strict=True))


def chart(found: pd.DataFrame) -> Figure:
    """Return the figure: share of each kind that each rule selects."""
    with publication_style():
        figure = new_figure(5.6, 2.6)
        ax = figure.subplots()
        for color, (rule, marker) in zip(COLORS, RULES.items(), strict=False):
            ax.plot(100 * found[rule], range(len(found)), marker, color=color, label=rule, ms=5)
        ax.axvline(100 * float(SHARE), color="0.6", ls="--", lw=0.8)
        shares = (100 * found["share of tokens"]).round().astype(int)
        ax.set_yticks(
            range(len(found)),
            [f"{NAMES[kind]}, {share}%" for kind, share in shares.items()],
        )
        ax.invert_yaxis()
        ax.set_xlim(0, 100)
        ax.set_xlabel("tokens of this kind that are selected (%)")
        figure.legend(loc="outside right upper", frameon=False)
    return figure


if __name__ == "__main__":
    main()
