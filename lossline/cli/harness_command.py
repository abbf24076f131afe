"""Implementation of ``python -m lossline.harness``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from lossline.errors import UserError
from lossline.evaluation.harness import MODEL, register
from lossline.evaluation.requests import Convention
from lossline.places import to_path
from lossline.runs.run_directory import RunDirectory

_MODEL_ARGS = "--model_args"
_AUTO = ("--batch_size", "auto")  # the harness's own default is 1


@dataclass(frozen=True, kw_only=True)
class HarnessOptions:
    """Options of ``lossline.harness``; further arguments are those of ``lm_eval``.

    Attributes:
        run: run directory.
        step: checkpoint; None: the last one.
        vocabulary: "bytes", a .model or a .json file; None: found by the hash that the run
            recorded.
        windows: documents longer than the context; see ``lossline.evaluation.requests``.
        pairs: spaces at the end of a context, and how it is tokenized; see there.
        beginning: what stands before a context; see there.
        activations: type to compute in; "": that of the training.
    """

    run: str
    step: int | None = None
    vocabulary: str | None = None
    windows: Convention = Convention.HARNESS
    pairs: Convention = Convention.HARNESS
    beginning: Convention = Convention.HARNESS
    activations: str = "float32"


def run_harness(options: HarnessOptions, arguments: Sequence[str]) -> None:
    """Register the model and run ``lm_eval`` with these further arguments.

    Raises:
        UserError: the harness is not installed, or the run or an option is wrong.
    """
    run = to_path(options.run, "harness.run")
    if "," in str(run):
        raise UserError(f"harness.run = {run}: the harness cannot take a path with a comma")
    RunDirectory.open(run)  # before the harness loads its tasks
    register()
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm_eval", *harness_arguments(options, arguments)]
    cli_evaluate()


def harness_arguments(options: HarnessOptions, arguments: Sequence[str]) -> list[str]:
    """Return the arguments of ``lm_eval``: the model and its arguments, then the user's own.

    Raises:
        UserError: the user's arguments name a model.
    """
    if any(word.partition("=")[0] in ("--model", "-M") for word in arguments):
        raise UserError(f"--model: is {MODEL} here. Leave it out, or run lm_eval itself.")
    made = {
        "path": options.run,  # the harness names the folder of its results after it
        "step": options.step,
        "vocabulary": options.vocabulary,
        "windows": options.windows.value,
        "pairs": options.pairs.value,
        "beginning": options.beginning.value,
        "activations": options.activations,
    }
    given, rest = _model_args(arguments)
    text = ",".join(
        [*(f"{key}={value}" for key, value in made.items() if value is not None), *given]
    )
    sized = any(word.partition("=")[0] in ("--batch_size", "-b") for word in rest)
    return ["--model", MODEL, _MODEL_ARGS, text, *([] if sized else _AUTO), *rest]


def _model_args(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the user's own arguments of the model, and the other arguments."""
    given: list[str] = []
    rest: list[str] = []
    taking = False
    for word in arguments:
        name, equals, value = word.partition("=")
        if name == _MODEL_ARGS or word == "-a":
            taking = not equals
            given += [value] if equals else []
        elif taking and not word.startswith("-"):
            given.append(word)
        else:
            taking = False
            rest.append(word)
    return given, rest
