"""Adapter of a run for the LM evaluation harness, for benchmarks beyond the built-in ones.

    from lossline.evaluation.harness import harness_model
    model = harness_model("runs/wiki-llama-1a2b3c4d", vocabulary="bytes")
    lm_eval.simple_evaluate(model=model, tasks=["arc_easy"])

The harness (extra ``[harness]``) downloads its tasks itself when it runs them. Losses are computed
as by the evaluator: same windows, same packing, float64 sums. Question and answer are tokenized
separately, so that the tokens of an answer do not depend on the question. Text generation is not
supported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lossline.errors import UserError
from lossline.evaluation.packing import PackedTexts
from lossline.evaluation.restoring import CheckpointUnreadable, RunModel
from lossline.evaluation.windows import Window, WindowRule, answer_windows, document_windows
from lossline.installing import install_extra
from lossline.runs.run_directory import RunDirectory
from lossline.sharding import MeshOptions, make_mesh, make_rules
from lossline.vocabularies import Vocabulary, VocabularySpec, load


class RequestScorer:
    """Answer the two likelihood requests of the harness for one checkpoint.

    Args:
        run: run directory.
        vocabulary: the vocabulary of the run.
        step: checkpoint. None: the last one.
        batch_size: rows per call of the model; a multiple of the mesh's ``data`` x ``fsdp``.
        activations: type to compute in.
        mesh: devices.

    Raises:
        UserError: the vocabulary is not that of the run, or the checkpoint is missing or corrupt.
    """

    def __init__(
        self,
        run: RunDirectory,
        vocabulary: Vocabulary,
        *,
        step: int | None = None,
        batch_size: int = 16,
        activations: str = "float32",
        mesh: MeshOptions | None = None,
    ) -> None:
        facts = run.facts
        if vocabulary.hash != facts["vocabulary_hash"]:
            raise UserError(
                f"run {run.path} was trained with vocabulary {facts['tokenizer']} "
                f"({facts['vocabulary_hash'][:8]}), not with {vocabulary.name} "
                f"({vocabulary.hash[:8]}). Give the run's vocabulary."
            )
        options = mesh or MeshOptions()
        model = RunModel(
            run,
            activations=activations,
            mesh=make_mesh(options),
            rules=make_rules(options.rules),
        )
        steps = run.checkpoint_steps()
        ((_, state),) = model.states([max(steps, default=0) if step is None else step])
        if isinstance(state, CheckpointUnreadable):
            raise UserError(str(state))
        context = int(facts["context_length"])
        self._rule = WindowRule(context=context, stride=max(1, context // 2))
        self._scorer, self._state = model.scorer, state
        self._vocabulary, self._batch_size = vocabulary, batch_size

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Return ln p of each continuation, and whether greedy decoding produces it."""
        contexts = self._vocabulary.encode_batch([context for context, _ in pairs])
        answers = self._vocabulary.encode_batch([answer for _, answer in pairs])
        texts = [np.concatenate(pair) for pair in zip(contexts, answers, strict=True)]
        windows = [
            answer_windows(len(text), len(context), self._rule) if len(text) > len(context) else []
            for text, context in zip(texts, contexts, strict=True)
        ]
        packed = self._packed(texts, windows)
        nats = self._scorer.nats_per_text(self._state, packed)
        misses = self._scorer.misses_per_text(self._state, packed)
        return [(-float(n), bool(m == 0)) for n, m in zip(nats, misses, strict=True)]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """Return ln p of each whole text."""
        tokens = self._vocabulary.encode_batch(texts)
        windows = [document_windows(len(t), self._rule) if len(t) else [] for t in tokens]
        nats = self._scorer.nats_per_text(self._state, self._packed(tokens, windows))
        return [-float(n) for n in nats]

    def _packed(
        self, texts: Sequence[np.ndarray], windows: Sequence[Sequence[Window]]
    ) -> PackedTexts:
        return PackedTexts(
            texts,
            windows,
            opening_id=self._vocabulary.eos_id,
            row_length=self._rule.context,
            batch_size=self._batch_size,
            groups=self._scorer.groups,
        )


def harness_model(run: str | Path, *, vocabulary: VocabularySpec | str, **options: Any) -> Any:
    """Return an ``lm_eval.api.model.LM`` for a checkpoint of a run.

    Args:
        run: run directory.
        vocabulary: "bytes", a .model or .json file, or a specification.
        options: options of ``RequestScorer``.

    Raises:
        UserError: the harness is not installed, or as for ``RequestScorer``.
    """
    try:
        from lm_eval.api.model import LM
    except ImportError:
        raise UserError(
            f"the LM evaluation harness is not installed; {install_extra('harness')}"
        ) from None

    class RunModelOfHarness(LM):
        def __init__(self) -> None:
            super().__init__()
            self.scorer = RequestScorer(RunDirectory.open(run), load(vocabulary), **options)

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return self.scorer.loglikelihood([request.args for request in requests])

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return self.scorer.loglikelihood_rolling([request.args[0] for request in requests])

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            raise UserError(
                "a task of the harness needs generated text, which lossline does not support. "
                "Choose tasks that compare likelihoods."
            )

    return RunModelOfHarness()
