"""Text of which a known part is noise that no model can learn, and trainings on it.

Clean text is a chain: each of 128 tokens has three possible successors. In noisy text, 40% of the
tokens are drawn uniformly, so nothing predicts them. The chain goes on from whatever token came
last, so every other token stays as learnable as in clean text.

- "tokens": each token is noise with probability 0.4.
- "spans": windows consist of pieces of eight tokens, of which 40% are noise.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import jax
import numpy as np

from lossline.models import LlamaConfig
from lossline.objectives.options import Scope, Score
from lossline.objectives.plain import PlainLoss
from lossline.objectives.selective import SelectiveLoss
from lossline.sharding import MeshOptions, make_mesh, make_rules
from lossline.training.optimizer import AdamW
from lossline.training.step import Trainer

VOCABULARY, LENGTH, ROWS, NOISE, SPAN = 128, 32, 32, 0.4, 8
RATES = np.asarray([1e-2, 0.0], np.float32)
MODEL = LlamaConfig(
    vocab_size=VOCABULARY,
    width=32,
    layers=1,
    heads=2,
    kv_heads=2,
    mlp_width=64,
    context_length=LENGTH,
    activation_dtype="float32",
)


def successors():
    """Return the three successors of each token, and their probabilities."""
    rng = np.random.default_rng(7)
    following = np.stack([rng.permutation(VOCABULARY) for _ in range(3)], axis=1)
    return following, np.array([0.6, 0.3, 0.1])


def text(kind, rows, seed):
    """Return tokens [rows, LENGTH + 1] and which of them are noise.

    Args:
        kind: "clean", "tokens" or "spans".
        rows: number of windows.
        seed: seed of the text; the chain is always the same.
    """
    rng = np.random.default_rng(seed)
    following, probabilities = successors()
    noise = np.zeros((rows, LENGTH + 1), bool)
    if kind == "tokens":
        noise = rng.random(noise.shape) < NOISE
    if kind == "spans":
        noise = np.repeat(rng.random((rows, -(-(LENGTH + 1) // SPAN))) < NOISE, SPAN, axis=1)
        noise = noise[:, : LENGTH + 1]
    tokens = rng.integers(0, VOCABULARY, noise.shape)
    choice = rng.choice(3, noise.shape, p=probabilities)
    for position in range(1, LENGTH + 1):
        learnable = following[tokens[:, position - 1], choice[:, position]]
        tokens[:, position] = np.where(noise[:, position], tokens[:, position], learnable)
    return tokens.astype(np.int32), noise


@cache
def trainer(share=None):
    """Return a trainer on one device; plain without a share."""
    objective = PlainLoss(vocab_size=VOCABULARY)
    if share is not None:
        objective = SelectiveLoss(
            vocab_size=VOCABULARY,
            share=Fraction(share),
            score=Score.EXCESS_LOSS,
            scope=Scope.BATCH,
            one_device=True,
        )
    return Trainer(
        model=MODEL,
        objective=objective,
        optimizer=AdamW(),
        mesh=make_mesh(MeshOptions(data=1), devices=jax.devices()[:1]),
        rules=make_rules(),
    )


def batch_of(tokens, reference=None):
    """Return the arrays of a batch."""
    batch = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": np.ones((len(tokens), LENGTH), np.float32),
    }
    return batch if reference is None else {**batch, "reference": reference}


@cache
def _nats():
    objective = trainer("0.6").objective
    return jax.jit(lambda params, batch: objective.nats(trainer("0.6").merge(params), batch))


def nats_of(params, tokens):
    """Return the nats of every target, float32 [rows, LENGTH]."""
    return np.asarray(_nats()(params, batch_of(tokens)))


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training.

    Attributes:
        params: parameters after the last step.
        selected: whether each target was trained on, [steps, ROWS, LENGTH]; empty for plain.
    """

    params: object
    selected: np.ndarray


def train(tokens, *, seed, share=None, reference=None):
    """Train once on all windows in their order, ROWS windows per step.

    Args:
        tokens: windows [steps · ROWS, LENGTH + 1].
        seed: seed of the first parameters.
        share: share to select; None: plain training.
        reference: parameters of the reference.
    """
    chosen = trainer(share)
    state, selected = chosen.init(jax.random.key(seed)), []
    # Scores are made before the training, in its windows, and are kept as float16.
    scores = None if share is None else nats_of(reference, tokens).astype(np.float16)
    choose = None if share is None else jax.jit(chosen.objective.choose)
    for step in range(len(tokens) // ROWS):
        rows = slice(step * ROWS, (step + 1) * ROWS)
        batch = batch_of(tokens[rows], None if scores is None else scores[rows])
        if choose is not None:
            nats = nats_of(state["params"], tokens[rows])
            selected.append(np.asarray(choose(batch, nats)[0]))
        state, _ = chosen.step(state, batch, RATES)
    return Trained(params=state["params"], selected=np.asarray(selected))
