"""Implementation of ``python -m lossline.sample``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from lossline.errors import UserError
from lossline.evaluation.restoring import CheckpointUnreadable, RunModel
from lossline.files import write_text
from lossline.places import to_path
from lossline.runs.run_directory import RunDirectory
from lossline.runs.vocabulary import run_vocabulary
from lossline.sampling import Continuation, Drawing, Sampler
from lossline.sharding import MeshOptions, make_mesh, make_rules
from lossline.vocabularies import VocabularySpec


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Options of ``lossline.sample``.

    Attributes:
        run: run directory.
        prompts: beginnings of the texts; "": the model begins itself.
        step: checkpoint; None: the last one.
        samples: texts per prompt.
        tokens: most new tokens of a text. The beginning of a prompt that does not fit the context
            beside them is left out.
        temperature: logits are divided by it before a draw; 0: the most probable token each time.
        top_k: draw only from this many most probable tokens; 0: from all.
        top_p: draw only from the most probable tokens that together have this probability; 1: from
            all.
        stop: strings that end a text.
        seed: seed of the draws. The same seed gives the same texts for the same prompts.
        context: most tokens of a prompt and its new tokens; None: the context of the training.
        vocabulary: "bytes", a .model or .json file, or a binding such as ``@huggingface()``; None:
            found by the hash that the run recorded.
        batch_size: texts per call of the model.
        activations: type to compute in; "": that of the training.
        mesh: devices.
        out: new file of JSON lines to write instead of printing.
    """

    run: str
    prompts: tuple[str, ...] = ("",)
    step: int | None = None
    samples: int = 1
    tokens: int = 128
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    context: int | None = None
    vocabulary: VocabularySpec | str | None = None
    batch_size: int = 16
    activations: str = "float32"
    mesh: MeshOptions = field(default_factory=MeshOptions)
    out: str = ""

    def __post_init__(self) -> None:
        for name in ("samples", "tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"sample.{name} = {getattr(self, name)}: must be at least 1")
        self.drawing()

    def drawing(self) -> Drawing:
        """Return how tokens are chosen."""
        return Drawing(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


def sample(options: SampleOptions) -> list[Continuation]:
    """Continue the prompts, and print or write the texts.

    Raises:
        UserError: the run, its checkpoint or its vocabulary is missing, an option is wrong, or the
            file to write exists.
    """
    if options.out and to_path(options.out, "sample.out").exists():
        raise UserError(f"sample.out: {options.out} exists. Delete it, or give another file.")
    run = RunDirectory.open(options.run)
    vocabulary = run_vocabulary(run, options.vocabulary)
    step = max(run.checkpoint_steps(), default=0) if options.step is None else options.step
    mesh = make_mesh(options.mesh)
    model = RunModel(
        run, activations=options.activations, mesh=mesh, rules=make_rules(options.mesh.rules)
    )
    ((_, state),) = model.states([step])
    if isinstance(state, CheckpointUnreadable):
        raise UserError(str(state))
    sampler = Sampler(
        model.graphdef,
        state,
        context=_context(options, run, model.config),
        batch_size=options.batch_size,
        mesh=mesh,
    )
    prompts = [prompt for prompt in options.prompts for _ in range(options.samples)]
    # A text begins after the end of another one, as in training.
    ids = [
        np.concatenate([[vocabulary.eos_id], tokens]) for tokens in vocabulary.encode_batch(prompts)
    ]
    made = sampler.continue_all(
        ids,
        vocabulary,
        options.drawing(),
        tokens=options.tokens,
        stop=options.stop,
        seed=options.seed,
    )
    if options.out:
        _write(options, run, step, prompts, made)
    else:
        print(f"{run.name}, checkpoint {step}")
        for number, (prompt, text) in enumerate(zip(prompts, made, strict=True), 1):
            left_out = (
                f"; the prompt's first {text.dropped} tokens left out" if text.dropped else ""
            )
            print(f"\n--- {number}: {len(text.ids)} new tokens{left_out} ---")
            print(prompt + text.text, flush=True)
    return made


def _context(options: SampleOptions, run: RunDirectory, config: object) -> int:
    """Return the most tokens of a prompt and its continuation."""
    trained = int(run.facts["context_length"])
    context = trained if options.context is None else options.context
    learned = getattr(config, "positions", "rotary") == "learned"
    if context < 2 or (learned and context > trained):
        raise UserError(
            f"sample.context = {context}: must be at least 2"
            + (f", and at most the {trained} learned positions of the model" if learned else "")
        )
    return context


def _write(
    options: SampleOptions,
    run: RunDirectory,
    step: int,
    prompts: Sequence[str],
    made: Sequence[Continuation],
) -> None:
    about = {"run": run.name, "step": step, "seed": options.seed, **asdict(options.drawing())}
    rows = [
        {"prompt": prompt, **asdict(text), **about}
        for prompt, text in zip(prompts, made, strict=True)
    ]
    path = to_path(options.out, "sample.out")
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{path}: {len(rows)} texts of {run.name}, checkpoint {step}", flush=True)
