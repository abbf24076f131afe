"""Role of each option and fact of a run. Matching, reports and figures all use this list.

A factor is what a study compares. Every other difference between two runs has one of the other
roles, so that no difference is counted as run-to-run noise by mistake:

- ``FACTOR``: a choice whose effect on the line is tested.
- ``SIZE``: a dimension of the model; it is part of the parameter count.
- ``ALONG``: how far along the line the run goes, and where it is measured.
- ``REPLICATE``: seeds. Runs that differ only in seeds measure the run-to-run noise.
- ``NUMERICS``: how the same mathematics is computed. Differences are rounding.

Options are named by their path in the run's identity (``schedule.warmup``); their column in the
loss table is ``option.<path>``. A test compares this list with the option dataclasses: an option
without a role fails it. This module imports nothing heavy, because training and analysis both use
it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

OPTION_PREFIX = "option."
RINGS = "option.mesh.rings"
OWN_PREFIX = "factor."  # a user's own factor: ``axis.factor`` of a grid
SIZE = "params"


class Role(enum.Enum):
    """Meaning of a difference between two runs in one fact."""

    FACTOR = "factor"
    SIZE = "size"
    ALONG = "along the line"
    REPLICATE = "replicate"
    NUMERICS = "numerics only"


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One fact of a run.

    Attributes:
        column: column of the loss table.
        role: role, see the module's docstring.
        label: name of the fact in a sentence, as in "changing the batch size".
        option: path of the option in the run's identity; empty if the fact is derived.
        owner: column of the factor that this option belongs to: architecture, optimizer and
            schedule have their own options. Empty: none.
        setting: whether it is usually chosen by model size. If such an option changes only together
            with the size, it is part of changing the size.
        numeric: whether levels are numbers; four or more levels are compared by their trend.
        principal: whether every report lists it, even if it does not vary or is not recorded.
    """

    column: str
    role: Role
    label: str
    option: str = ""
    owner: str = ""
    setting: bool = False
    numeric: bool = False
    principal: bool = False


def option_fact(
    path: str,
    role: Role,
    label: str,
    *,
    owner: str = "",
    setting: bool = False,
    numeric: bool = False,
    principal: bool = False,
) -> Fact:
    """Return the fact of an option without a named column; its column is ``option.<path>``."""
    return Fact(
        column=OPTION_PREFIX + path,
        role=role,
        label=label,
        option=path,
        owner=owner,
        setting=setting,
        numeric=numeric,
        principal=principal,
    )


def _named(
    column: str, label: str, *, option: str = "", setting: bool = False, numeric: bool = False
) -> Fact:
    return Fact(
        column=column,
        role=Role.SIZE if column == SIZE else Role.FACTOR,
        label=label,
        option=option,
        setting=setting,
        numeric=numeric,
        principal=True,
    )


def _model(path: str, label: str, *, numeric: bool = False) -> Fact:
    return option_fact(
        f"model.{path}",
        Role.FACTOR,
        label,
        owner="architecture",
        setting=True,
        numeric=numeric,
    )


def _optimizer(path: str, label: str) -> Fact:
    return option_fact(
        f"optimizer.{path}", Role.FACTOR, label, owner="optimizer", setting=True, numeric=True
    )


def _schedule(path: str, label: str, *, numeric: bool = True, principal: bool = False) -> Fact:
    return option_fact(
        f"schedule.{path}",
        Role.FACTOR,
        label,
        owner="schedule",
        setting=True,
        numeric=numeric,
        principal=principal,
    )


def _size(path: str, label: str, *, owner: str = "") -> Fact:
    return option_fact(f"model.{path}", Role.SIZE, label, owner=owner, numeric=True)


def _numerics(path: str, label: str) -> Fact:
    return option_fact(path, Role.NUMERICS, label)


def _along(path: str, label: str) -> Fact:
    return option_fact(path, Role.ALONG, label)


_FACTORS = (
    _named("pretraining_data", "the pretraining data"),
    _named("tokenizer", "the tokenizer"),
    _named("architecture", "the architecture", option="model.__class__"),
    _named(SIZE, "the model size", numeric=True),
    _named(
        "context_length",
        "the context length",
        option="context_length",
        setting=True,
        numeric=True,
    ),
    _named("optimizer", "the optimizer", option="optimizer.__class__"),
    _named(
        "learning_rate",
        "the learning rate",
        option="optimizer.learning_rate",
        setting=True,
        numeric=True,
    ),
    _named(
        "weight_decay",
        "the weight decay",
        option="optimizer.weight_decay",
        setting=True,
        numeric=True,
    ),
    _named("schedule", "the learning-rate schedule", option="schedule.__class__", setting=True),
    _named("token_selection", "the token selection"),
    *(
        option_fact(f"objective.{path}", Role.FACTOR, label, owner="token_selection")
        for path, label in (
            ("score", "the score of token selection"),
            ("scope", "the tokens that are ranked together"),
            ("scores", "the reference scores of the tokens"),
        )
    ),
    option_fact(
        "objective.share",
        Role.FACTOR,
        "the share of selected tokens",
        owner="token_selection",
        numeric=True,
    ),
    option_fact(
        "batch_size", Role.FACTOR, "the batch size", setting=True, numeric=True, principal=True
    ),
    _schedule("warmup", "the warm-up", principal=True),
    _schedule("decay", "the length of the decay"),
    _schedule("final", "the final learning rate"),
    _schedule("shape", "the shape of the decay", numeric=False),
    option_fact("start", Role.FACTOR, "the parameters at the start"),
    option_fact("documents", Role.FACTOR, "whether documents see each other", principal=True),
    option_fact("z_loss", Role.FACTOR, "the z-loss", setting=True, numeric=True),
    _optimizer("b1", "Adam's b1"),
    _optimizer("b2", "Adam's b2"),
    _optimizer("eps", "Adam's epsilon"),
    _optimizer("momentum", "the momentum"),
    _optimizer("clip_norm", "gradient clipping"),
    _model("tie_embeddings", "tied embeddings"),
    _model("norm", "the kind of norm"),
    _model("norm_scale", "scales of norms"),
    _model("norm_bias", "biases of norms"),
    _model("norm_eps", "the epsilon of norms", numeric=True),
    _model("init_std", "the scale of initialization", numeric=True),
    _model("activation_dtype", "the precision of activations"),
    _model("param_dtype", "the precision of parameters"),
    _model("mlp", "the kind of MLP"),
    _model("biases", "biases"),
    _model("parallel", "parallel attention and MLP"),
    _model("post_norm", "where norms stand"),
    _model("norm_offset", "the offset of norm scales", numeric=True),
    _model("embedding_scale", "the scale of embeddings"),
    _model("qk_norm", "norms of queries and keys"),
    _model("score_width", "the divisor of attention scores", numeric=True),
    _model("positions", "the kind of positions"),
    _model("rope_theta", "the base of rotary positions", numeric=True),
    _model("rope_fraction", "the share of rotary channels", numeric=True),
    _model("rope_scaling", "the scaling of rotary positions", numeric=True),
    _model("rope_scaling_kind", "the kind of rotary scaling"),
    _model("rope_low", "the low end of rotary scaling", numeric=True),
    _model("rope_high", "the high end of rotary scaling", numeric=True),
    _model("rope_original", "the context before rotary scaling", numeric=True),
    _model("unrotated_every", "how often a layer has no positions", numeric=True),
    _model("window", "the window of attention", numeric=True),
    _model("full_every", "how often a layer attends beyond its window", numeric=True),
    _model("window_theta", "the base of rotary positions within windows", numeric=True),
    _model("attention_every", "how often a layer is attention", numeric=True),
    _model("state_space", "the kind of state-space layer"),
    _model("dt_min", "the smallest fresh step size", numeric=True),
    _model("dt_max", "the largest fresh step size", numeric=True),
    _model("decay_min", "the smallest fresh decay rate", numeric=True),
    _model("decay_max", "the largest fresh decay rate", numeric=True),
)
_OTHERS = (
    # The store's content is a factor through two named columns, "pretraining_data" and "tokenizer",
    # which its manifest records.
    *(
        option_fact(path, Role.FACTOR, "the text of the store", owner="pretraining_data")
        for path in ("store", "store.components", "store.shares")
    ),
    _size("width", "the width"),
    _size("layers", "the number of layers"),
    _size("heads", "the number of heads"),
    _size("head_width", "the width of a head"),
    _size("kv_heads", "the number of key/value heads"),
    _size("mlp_width", "the width of the MLP"),
    _size("expand", "the expansion of state-space layers"),
    _size("state", "the state size"),
    _size("conv", "the taps of the convolution"),
    _size("dt_rank", "the rank of step sizes"),
    _size("head_channels", "the channels of a head"),
    _size("map_groups", "the groups of heads"),
    _size("vocab_size", "the size of the vocabulary", owner="tokenizer"),
    _size("context_length", "the positions of the model", owner="context_length"),
    _along("steps", "the number of steps"),
    _along("tokens", "the number of tokens"),
    _along("checkpoints.every", "when checkpoints are taken"),
    _along("checkpoints.steps", "when checkpoints are taken"),
    _along("checkpoints.count", "when checkpoints are taken"),
    _along("checkpoints.spacing", "when checkpoints are taken"),
    _along("checkpoints.first", "when checkpoints are taken"),
    Fact(column="seed", role=Role.REPLICATE, label="the seed", option="seed"),
    option_fact("data_seed", Role.REPLICATE, "the seed of the data's order"),
    _numerics("microbatches", "microbatches"),
    _numerics("cross_entropy", "the implementation of the loss"),
    _numerics("model.vocab_multiple", "the padding of the vocabulary"),
    _numerics("model.remat", "what the backward pass recomputes"),
    _numerics("model.scan_layers", "the loop over layers"),
    _numerics("model.attention_implementation", "the implementation of attention"),
    _numerics("model.scan_implementation", "the implementation of the scan"),
    _numerics("model.scan_chunk", "the chunk of the scan"),
    # No option of the identity: a run may continue on a slice where rings pay.
    Fact(column=RINGS, role=Role.NUMERICS, label="rings of the TPU compiler"),
)

FACTS: tuple[Fact, ...] = _FACTORS + _OTHERS
_BY_COLUMN = {fact.column: fact for fact in FACTS} | {
    OPTION_PREFIX + fact.option: fact for fact in FACTS if fact.option
}


def fact_of(column: str) -> Fact | None:
    """Return the fact in a column of the loss table, or None for a column that contains no fact.

    The column is the fact's name, ``option.<path>``, or ``factor.<name>`` for a user's own factor.
    An option that is not in the list (from runs of another program) is a factor: its effect is
    unknown, so it must not be counted as noise.
    """
    if column in _BY_COLUMN:
        return _BY_COLUMN[column]
    if column.startswith(OPTION_PREFIX):
        path = column.removeprefix(OPTION_PREFIX)
        return option_fact(path, Role.FACTOR, f"the option {path}")
    if column.startswith(OWN_PREFIX):
        return Fact(column=column, role=Role.FACTOR, label=column.removeprefix(OWN_PREFIX))
    return None
