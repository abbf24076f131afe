"""Runs as models of the LM evaluation harness, for benchmarks beyond the built-in ones.

    import lm_eval
    import lossline.evaluation.harness  # registers the model "lossline"

    lm_eval.simple_evaluate(
        model="lossline", model_args="run=runs/wiki-llama-1a2b3c4d", tasks=["arc_easy"]
    )

``python -m lossline.harness`` does the same from the command line. The harness (extra
``[harness]``) downloads its tasks itself when it runs them. ``lossline.evaluation.requests``
answers the requests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lossline.errors import UserError
from lossline.evaluation.requests import NEW_TOKENS, Conventions, RequestScorer, new_tokens
from lossline.installing import install_extra
from lossline.runs.run_directory import RunDirectory
from lossline.runs.vocabulary import run_vocabulary
from lossline.vocabularies import VocabularySpec

MODEL = "lossline"  # name in the harness


def harness_model(
    run: str | Path, *, vocabulary: VocabularySpec | str | None = None, **options: Any
) -> Any:
    """Return an ``lm_eval.api.model.LM`` for a checkpoint of a run.

    Args:
        run: run directory.
        vocabulary: "bytes", a .model or .json file, or a specification. None: found by the hash
            that the run recorded.
        options: options of ``Conventions``, and those of ``RequestScorer``.

    Raises:
        UserError: the harness is not installed, or as for ``RequestScorer``.
    """
    return register()(run=str(run), vocabulary=vocabulary, **options)


def register() -> Any:
    """Register the model "lossline" in the harness, and return its class.

    Raises:
        UserError: the harness is not installed.
    """
    global _registered
    try:
        import lm_eval.models  # noqa: F401 - registers the others, only while there is none
        from lm_eval.api.model import LM
        from lm_eval.api.registry import register_model
    except ImportError:
        raise UserError(
            f"the LM evaluation harness is not installed; {install_extra('harness')}"
        ) from None
    if _registered is None:
        _registered = register_model(MODEL)(_model_class(LM))
    return _registered


_registered: Any = None


def _model_class(base: type) -> type:
    """Return the model as a subclass of the harness's base class."""

    class RunOfLossline(base):  # type: ignore[misc, valid-type]
        """A checkpoint of a run, for the harness.

        Args:
            run: run directory; ``path`` is another name, after which the harness names its folder
                of results.
            vocabulary: as for ``harness_model``.
            step: checkpoint. None: the last one.
            max_gen_toks: most new tokens where a task does not say.
            batch_size, activations, mesh, max_length: as for ``RequestScorer``.
            max_batch_size, device: ignored; the harness passes them.
            conventions: options of ``Conventions``.
        """

        def __init__(
            self,
            run: Any = None,
            *,
            path: Any = None,
            vocabulary: Any = None,
            step: int | None = None,
            max_gen_toks: int = NEW_TOKENS,
            batch_size: int | str | None = None,
            max_batch_size: Any = None,
            device: Any = None,
            activations: str = "float32",
            mesh: Any = None,
            max_length: int | None = None,
            **conventions: Any,
        ) -> None:
            super().__init__()
            del max_batch_size, device
            if (place := path if run is None else run) is None:
                raise UserError(
                    f"the model {MODEL} needs a run directory: model_args run=runs/NAME"
                )
            _refuse_unknown(conventions)
            directory = RunDirectory.open(str(place))
            self.max_gen_toks = int(max_gen_toks)
            self.scorer = RequestScorer(
                directory,
                run_vocabulary(directory, vocabulary),
                step=step,
                batch_size="auto" if batch_size is None else batch_size,
                activations=activations,
                mesh=mesh,
                max_length=max_length,
                conventions=Conventions.named(**conventions),
            )

        @property
        def tokenizer_name(self) -> str:
            """Name of the vocabulary with its hash, for the harness's caches of requests."""
            facts = self.scorer.vocabulary.facts
            return f"{facts.name}-{facts.hash[:8]}"

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
            pairs = [request.args for request in requests]
            answers = self.scorer.loglikelihood(pairs)
            return self._remembered("loglikelihood", pairs, answers)

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
            texts = [request.args[0] for request in requests]
            answers = self.scorer.loglikelihood_rolling(texts)
            return self._remembered("loglikelihood_rolling", [(text,) for text in texts], answers)

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
            asked = [request.args for request in requests]
            limited = [
                (context, {**options, "max_gen_toks": new_tokens(options, self.max_gen_toks)})
                for context, options in asked
            ]
            answers = self.scorer.generate_until(limited)
            return self._remembered("generate_until", asked, answers)

        def get_model_info(self) -> dict[str, Any]:
            """Return what the harness records of the model beside its results."""
            scorer = self.scorer
            conventions = scorer.conventions
            return {
                "run": scorer.run.name,
                "checkpoint": scorer.step,
                "vocabulary": self.tokenizer_name,
                "model_num_parameters": scorer.model.config.num_params().total,
                "model_dtype": scorer.model.config.activation_dtype,
                "max_length": scorer.context,
                "windows": conventions.windows.value,
                "pairs": conventions.pairs.value,
                "beginning": conventions.beginning.value,
                "prefix_token_id": scorer.prefix,
            }

        def _remembered(self, kind: str, asked: Sequence[Any], answers: list[Any]) -> list[Any]:
            """Give the answers to the harness's cache, and return them."""
            for request, answer in zip(asked, answers, strict=True):
                self.cache_hook.add_partial(kind, request, answer)
            return answers

    return RunOfLossline


def _refuse_unknown(conventions: dict[str, Any]) -> None:
    known = ("windows", "pairs", "beginning", "prefix_token_id")
    if unknown := sorted(set(conventions) - set(known)):
        raise UserError(
            f"the model {MODEL} has no argument {unknown[0]}; it has run, vocabulary, step, "
            f"max_length, max_gen_toks, batch_size, activations, {', '.join(known)}"
        )


with contextlib.suppress(UserError):  # without the harness, harness_model says how to install it
    register()
