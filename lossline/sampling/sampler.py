"""Continue many prompts with one model, a batch of them at a time.

Letters: B prompts of a batch, P positions of the longest of them, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from lossline.errors import UserError
from lossline.models.caches import empty_caches
from lossline.ops.backend import products_of
from lossline.ops.linear import linear
from lossline.sampling.drawing import Drawing, draw
from lossline.sampling.stops import Text
from lossline.vocabularies import Vocabulary

_SHORTEST = 16  # lengths are rounded up to 16, 32, 64, …: few shapes, few compilations


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What a model wrote after a prompt.

    Attributes:
        text: the text, without the stop string that ended it.
        ids: its tokens; those of the stop string are included.
        ended: "stop" (a stop string), "end" (the end-of-document token) or "tokens" (their number).
        dropped: tokens at the beginning of the prompt that did not fit the context.
    """

    text: str
    ids: tuple[int, ...]
    ended: str
    dropped: int


class Sampler:
    """Continue prompts with one checkpoint.

    Args:
        graphdef: definition of the model, ``nnx.split(model)[0]``.
        state: its parameters, ``nnx.split(model)[1]``.
        context: most tokens of a prompt and its continuation together.
        batch_size: prompts per call of the model.
        mesh: devices over which the parameters are split. None: one device.
    """

    def __init__(
        self,
        graphdef: Any,
        state: Any,
        *,
        context: int,
        batch_size: int = 16,
        mesh: Mesh | None = None,
    ) -> None:
        self._graphdef, self._state = graphdef, state
        self._context, self._batch_size, self._mesh = context, batch_size, mesh

    def continue_all(
        self,
        prompts: Sequence[np.ndarray],
        vocabulary: Vocabulary,
        drawing: Drawing,
        *,
        tokens: int,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[Continuation]:
        """Return the continuation of each prompt.

        The beginning of a prompt that is too long for the context is left out. A drawn text depends
        on the seed and on the place of its prompt in the list, not on the batch size (up to
        rounding).

        Args:
            prompts: token ids of each prompt; at least one, such as the end-of-document id.
            vocabulary: vocabulary of the model.
            drawing: how tokens are chosen.
            tokens: most new tokens of a prompt.
            stop: strings that end a continuation.
            seed: seed of the draws.

        Raises:
            UserError: the context has no room for this number of tokens and one of the prompt.
        """
        if not 0 < tokens < self._context:
            raise UserError(
                f"{tokens} new tokens: must be from 1 to {self._context - 1}, so that they and one "
                f"token of the prompt fit the context of {self._context} tokens"
            )
        room = self._context - tokens
        fitting = [np.asarray(prompt, np.int32)[-room:] for prompt in prompts]
        texts = [Text(vocabulary, tokens=tokens, stop=stop) for _ in prompts]
        # Prompts of about one length share a batch, so that little of it is padding.
        order = sorted(range(len(prompts)), key=lambda i: len(fitting[i]))
        for first in range(0, len(order), self._batch_size):
            chosen = order[first : first + self._batch_size]
            self._continue_batch(chosen, fitting, texts, drawing, tokens=tokens, seed=seed)
        return [
            Continuation(
                text=text.text,
                ids=tuple(text.ids),
                ended=text.ended,
                dropped=len(prompt) - len(kept),
            )
            for text, prompt, kept in zip(texts, prompts, fitting, strict=True)
        ]

    def _continue_batch(
        self,
        chosen: Sequence[int],
        prompts: Sequence[np.ndarray],
        texts: Sequence[Text],
        drawing: Drawing,
        *,
        tokens: int,
        seed: int,
    ) -> None:
        """Extend the texts of a batch until all have ended."""
        rows = min(self._batch_size, _rounded(len(chosen), 1))
        length = _rounded(max(len(prompts[i]) for i in chosen), _SHORTEST)
        prompt_BxP, valid_BxP = (np.zeros((rows, length), np.int32) for _ in range(2))
        for row, index in enumerate(chosen):
            ids = prompts[index]
            prompt_BxP[row, length - len(ids) :] = ids
            valid_BxP[row, length - len(ids) :] = 1
        valid_BxP[len(chosen) :, -1] = 1  # rows that only fill the batch
        numbers_B = np.zeros(rows, np.int32)
        numbers_B[: len(chosen)] = chosen
        keys_B = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers_B)
        with self._on_mesh():
            token_B, position_B, caches = _begin(
                self._graphdef, drawing, _rounded(length + tokens, _SHORTEST),
                self._state, prompt_BxP, valid_BxP, keys_B,
            )  # fmt: skip
            while True:
                for index, token in zip(
                    chosen, np.asarray(token_B)[: len(chosen)].tolist(), strict=True
                ):
                    texts[index].add(token)
                if all(texts[index].ended for index in chosen):
                    return
                token_B, position_B, caches = _next(
                    self._graphdef, drawing, self._state, caches, token_B, position_B, keys_B
                )

    def _on_mesh(self) -> AbstractContextManager:
        return nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _begin(
    graphdef: Any,
    drawing: Drawing,
    length: int,
    state: Any,
    prompt_BxP: jax.Array,
    valid_BxP: jax.Array,
    keys_B: jax.Array,
) -> tuple[jax.Array, jax.Array, Any]:
    """Read the prompts; return the first new tokens, their positions and the caches."""
    model = nnx.merge(graphdef, state)
    caches = empty_caches(
        model.blocks, model.config.blocks, rows=prompt_BxP.shape[0], length=length
    )
    positions_BxP = jnp.maximum(jnp.cumsum(valid_BxP, axis=1) - 1, 0)
    token_B, caches = _drawn(
        model, drawing, caches, prompt_BxP, valid_BxP.astype(bool), positions_BxP, keys_B
    )
    return token_B, positions_BxP[:, -1] + 1, caches


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3,))
def _next(
    graphdef: Any,
    drawing: Drawing,
    state: Any,
    caches: Any,
    token_B: jax.Array,
    position_B: jax.Array,
    keys_B: jax.Array,
) -> tuple[jax.Array, jax.Array, Any]:
    """Read the newest tokens; return the tokens after them, their positions and the caches."""
    model = nnx.merge(graphdef, state)
    valid_Bx1 = jnp.ones((token_B.shape[0], 1), bool)
    token_B, caches = _drawn(
        model, drawing, caches, token_B[:, None], valid_Bx1, position_B[:, None], keys_B
    )
    return token_B, position_B + 1, caches


def _drawn(
    model: Any,
    drawing: Drawing,
    caches: Any,
    tokens_BxL: jax.Array,
    valid_BxL: jax.Array,
    positions_BxL: jax.Array,
    keys_B: jax.Array,
) -> tuple[jax.Array, Any]:
    with products_of(model.config.activation_dtype):
        hidden_BxLxD, caches = model.continued(tokens_BxL, valid_BxL, positions_BxL, caches)
        logits_BxV = linear(hidden_BxLxD[:, -1], model.unembedding()).astype(jnp.float32)
    # The position in its text makes the key, so that it does not depend on the batch's padding.
    keys_B = jax.vmap(jax.random.fold_in)(keys_B, positions_BxL[:, -1])
    return draw(logits_BxV, keys_B, drawing), caches


def _rounded(number: int, least: int) -> int:
    """Return the smallest of ``least``, twice that, four times that, … that is large enough."""
    while least < number:
        least *= 2
    return least
