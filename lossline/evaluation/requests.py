"""Answer the requests of the LM evaluation harness for one checkpoint of a run.

The numbers are the harness's: those that its own adapter for Hugging Face models gives for the same
parameters. Each of its conventions is an option, whose other value is that of lossline's evaluator.
This module does not need the harness.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from lossline.errors import UserError
from lossline.evaluation.packing import PackedTexts
from lossline.evaluation.restoring import CheckpointUnreadable, RunModel
from lossline.evaluation.windows import Window, WindowRule, answer_windows, document_windows
from lossline.runs.run_directory import RunDirectory
from lossline.sampling import Drawing, Sampler
from lossline.sharding import MeshOptions, make_mesh, make_rules
from lossline.vocabularies import Vocabulary

NEW_TOKENS = 256  # the harness's default for the longest generated text
_AUTO_TOKENS = 16384  # tokens of a batch with batch_size "auto", before any memory error
_TOKEN_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class Convention(enum.Enum):
    """Whose convention: HARNESS, that of the LM evaluation harness; LOSSLINE, the evaluator's."""

    HARNESS = "harness"
    LOSSLINE = "lossline"


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """How texts become the rows that the model reads.

    Attributes:
        windows: a document longer than the context. "harness": windows side by side, each with one
            token of the one before, and the last one moved back to the full context. "lossline":
            windows that move by half the context.
        pairs: a context and its continuation. "harness": spaces at the end of the context move to
            the continuation, and both are tokenized together. "lossline": they are tokenized
            separately and as they are, so that the tokens of a continuation do not depend on the
            context.
        beginning: what stands before a context. "harness": nothing; the prefix token only where the
            context is empty. "lossline": always the prefix token, as in training. (A whole document
            begins after the prefix token in both.)
        prefix_token_id: the prefix token. None: the end-of-document token.
    """

    windows: Convention = Convention.HARNESS
    pairs: Convention = Convention.HARNESS
    beginning: Convention = Convention.HARNESS
    prefix_token_id: int | None = None

    @classmethod
    def named(cls, **options: Any) -> Conventions:
        """Return the conventions for options given as words.

        Raises:
            UserError: a word names no convention.
        """
        made: dict[str, Any] = {}
        for name, value in options.items():
            try:
                made[name] = int(value) if name == "prefix_token_id" else Convention(value)
            except ValueError:
                allowed = "a token id" if name == "prefix_token_id" else "'harness' or 'lossline'"
                raise UserError(f"{name} = {value!r}: must be {allowed}") from None
        return cls(**made)


class RequestScorer:
    """Answer the likelihood and generation requests of the harness for one checkpoint.

    Args:
        run: run directory.
        vocabulary: the vocabulary of the run.
        step: checkpoint. None: the last one.
        batch_size: rows per call of the model, rounded up to a multiple of the mesh's ``data`` x
            ``fsdp``; or "auto": as many as memory holds, found by halving.
        activations: type to compute in; "": that of the training.
        mesh: devices.
        max_length: context in tokens. None: that of the training.
        conventions: the harness's or lossline's.

    Attributes:
        run: as above.
        step: the checkpoint.
        context: context in tokens.
        conventions: as above.

    Raises:
        UserError: the vocabulary is not that of the run, or the checkpoint is missing or corrupt.
    """

    def __init__(
        self,
        run: RunDirectory,
        vocabulary: Vocabulary,
        *,
        step: int | None = None,
        batch_size: int | str = "auto",
        activations: str = "float32",
        mesh: MeshOptions | None = None,
        max_length: int | None = None,
        conventions: Conventions | None = None,
    ) -> None:
        facts = run.facts
        if vocabulary.hash != facts["vocabulary_hash"]:
            raise UserError(
                f"run {run.path} was trained with vocabulary {facts['tokenizer']} "
                f"({facts['vocabulary_hash'][:8]}), not with {vocabulary.name} "
                f"({vocabulary.hash[:8]}). Give the run's vocabulary."
            )
        self.run, self.conventions = run, conventions or Conventions()
        self.context = int(facts["context_length"] if max_length is None else max_length)
        options = mesh or MeshOptions()
        self._mesh = make_mesh(options)
        self.model = RunModel(
            run, activations=activations, mesh=self._mesh, rules=make_rules(options.rules)
        )
        steps = run.checkpoint_steps()
        self.step = max(steps, default=0) if step is None else step
        ((_, state),) = self.model.states([self.step])
        if isinstance(state, CheckpointUnreadable):
            raise UserError(str(state))
        harness = self.conventions.windows is Convention.HARNESS
        stride = self.context if harness else max(1, self.context // 2)
        self._rule = WindowRule(context=self.context, stride=stride)
        self._scorer, self._state = self.model.scorer, state
        self.vocabulary = vocabulary
        chosen = self.conventions.prefix_token_id
        self.prefix = vocabulary.eos_id if chosen is None else chosen
        self._batch_size = self._rows(batch_size)

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Return ln p of each continuation, and whether greedy decoding produces it."""
        texts, starts = self._encoded(pairs)
        windows = [
            self._answer(context, text, start)
            for (context, _), text, start in zip(pairs, texts, starts, strict=True)
        ]
        nats, misses = self._measured(texts, windows)
        return [(-float(n), bool(m == 0)) for n, m in zip(nats, misses, strict=True)]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """Return ln p of each whole text."""
        tokens = self.vocabulary.encode_batch(texts) if texts else []
        windows = [document_windows(len(t), self._rule) if len(t) else [] for t in tokens]
        nats, _ = self._measured(tokens, windows)
        return [-float(n) for n in nats]

    def generate_until(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """Return a continuation of each context, which ends before the first stop string.

        Args:
            requests: context and the harness's arguments of each: ``until``, ``max_gen_toks`` (or
                another of its names), ``do_sample``, ``temperature``, ``top_k``, ``top_p``,
                ``seed``.

        Raises:
            UserError: the context has no room for so many new tokens.
        """
        groups: dict[str, list[int]] = {}
        for index, (_, options) in enumerate(requests):
            key = json.dumps(dict(options), sort_keys=True, default=str)
            groups.setdefault(key, []).append(index)
        answers = [""] * len(requests)
        sampler = Sampler(
            self.model.graphdef,
            self._state,
            context=self.context,
            batch_size=self._batch_size,
            mesh=self._mesh,
        )
        for chosen in groups.values():
            options = requests[chosen[0]][1]
            made = sampler.continue_all(
                [self._prompt(requests[index][0]) for index in chosen],
                self.vocabulary,
                _drawing(options),
                tokens=new_tokens(options),
                stop=_stop_strings(options),
                seed=int(options.get("seed", 0)),
            )
            for index, text in zip(chosen, made, strict=True):
                answers[index] = text.text
        return answers

    def _prompt(self, context: str) -> np.ndarray:
        ids = self.vocabulary.encode(context)
        alone = self.conventions.beginning is Convention.HARNESS and len(ids) > 0
        return ids if alone else np.concatenate([[self.prefix], ids])

    def _encoded(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[np.ndarray], list[int]]:
        """Return the tokens of each pair, and the index of the first one that is scored."""
        if not pairs:
            return [], []
        encode = self.vocabulary.encode_batch
        if self.conventions.pairs is Convention.LOSSLINE:
            contexts, answers = encode([c for c, _ in pairs]), encode([a for _, a in pairs])
            texts = [np.concatenate(pair) for pair in zip(contexts, answers, strict=True)]
            return texts, [len(context) for context in contexts]
        texts = encode([context + answer for context, answer in pairs])
        # Spaces at the end of a context belong to the first word of the continuation.
        contexts = encode([context.rstrip() for context, _ in pairs])
        return texts, [len(context) for context in contexts]

    def _answer(self, context: str, text: np.ndarray, start: int) -> list[Window]:
        """Return the windows of a context and its continuation, scored from ``start``."""
        if start >= len(text):
            return []
        windows = answer_windows(len(text), start, self._rule)
        if self.conventions.beginning is Convention.LOSSLINE:
            return windows
        if start == 0:  # an empty context: the prefix token is the context, unless it is there
            if text[0] != self.prefix:
                return windows
            start = 1
        # Position 0 reads the prefix token: leave it out, and what it would predict.
        cut = [
            dataclasses.replace(w, start=max(1, w.start), scored=max(w.scored, start))
            for w in windows
        ]
        return [window for window in cut if window.scored < window.stop]

    def _measured(
        self, texts: Sequence[np.ndarray], windows: Sequence[Sequence[Window]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the nats and the misses of each text."""
        if not any(windows):
            return np.zeros(len(texts)), np.zeros(len(texts))
        while True:
            try:
                packed = self._packed(texts, windows)
                return self._scorer.nats_and_misses_per_text(self._state, packed)
            except jax.errors.JaxRuntimeError as error:
                groups = self._scorer.groups
                if "RESOURCE_EXHAUSTED" not in str(error) or self._batch_size < 2 * groups:
                    raise
                self._batch_size = max(groups, self._batch_size // 2 // groups * groups)

    def _packed(
        self, texts: Sequence[np.ndarray], windows: Sequence[Sequence[Window]]
    ) -> PackedTexts:
        def packed(rows: int) -> PackedTexts:
            return PackedTexts(
                texts,
                windows,
                opening_id=self.prefix,
                row_length=self._rule.context,
                batch_size=rows,
                groups=self._scorer.groups,
            )

        whole = packed(self._batch_size)
        rows = self._scorer.groups
        while rows < min(whole.num_rows, self._batch_size):
            rows *= 2
        return packed(rows) if rows < self._batch_size else whole  # few texts: few rows

    def _rows(self, batch_size: int | str) -> int:
        """Return the rows per call for a number or "auto" (also "auto:4", as in the harness)."""
        groups = self._scorer.groups
        if str(batch_size).startswith("auto"):
            return groups * min(64, max(1, _AUTO_TOKENS // self.context))
        rows = int(batch_size) if str(batch_size).isdigit() else 0
        if rows < 1:
            raise UserError(f"batch_size = {batch_size!r}: must be 'auto' or a positive number")
        return -(-rows // groups) * groups


def new_tokens(options: Mapping[str, Any], default: int = NEW_TOKENS) -> int:
    """Return the most new tokens of a generation request, by the first of its names."""
    given = [options[name] for name in _TOKEN_LIMITS if options.get(name) is not None]
    return int(given[0]) if given else default


def _stop_strings(options: Mapping[str, Any]) -> list[str]:
    until = options.get("until") or []
    return [until] if isinstance(until, str) else list(until)


def _drawing(options: Mapping[str, Any]) -> Drawing:
    """Return how tokens are chosen: greedy unless sampling or a temperature is asked for."""
    temperature = float(options.get("temperature") or 0.0)
    sampled = options.get("do_sample")
    if sampled is False or (sampled is None and temperature == 0):
        return Drawing(temperature=0.0)
    return Drawing(
        temperature=temperature if "temperature" in options else 1.0,
        top_k=int(options.get("top_k") or 0),
        top_p=float(options.get("top_p") or 1.0),
    )
