"""Run the LM evaluation harness on a run: its own command, with the model registered.

    python -m lossline.harness --run=runs/wiki-llama-1a2b3c4d --tasks arc_easy --num_fewshot 5

All other arguments go to lm_eval (python -m lm_eval run --help). Its numbers are those of lm_eval
--model hf on the exported folder; --windows, --pairs and --beginning choose lossline's conventions
instead. The results name the run and its checkpoint.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

from lossline.cli.configuration import Flag, Verb, run_verb


def load(arguments: Sequence[str] = ()) -> Verb:
    """Return the verb, with its imports, for these arguments of the harness."""
    from lossline.cli.harness_command import HarnessOptions, run_harness

    run = functools.partial(run_harness, arguments=tuple(arguments))
    return Verb(options=HarnessOptions, run=run)


FLAGS = {
    "run": Flag("harness.run", "run directory"),
    "step": Flag("harness.step", "checkpoint; default: the last", "whole"),
    "vocabulary": Flag("harness.vocabulary", "default: found by the hash that the run recorded"),
    "windows": Flag("harness.windows", "documents longer than the context: harness or lossline"),
    "pairs": Flag("harness.pairs", "how a context and its continuation are tokenized: the same"),
    "beginning": Flag("harness.beginning", "what stands before a context: the same"),
    "activations": Flag("harness.activations", "type to compute in; default: float32"),
}
_GIN = ("gin_file", "gin_bindings", "gin_search_paths")  # as every verb has them


def separated(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments of this command, and those of the harness."""
    own: list[str] = []
    theirs: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        ours = name.removeprefix("--") in (*FLAGS, *_GIN) or name.startswith("--gin.")
        if ours and name.startswith("--"):
            own.append(word)
            own += [rest.pop(0)] if not equals and rest else []
        else:
            (own if word in ("-h", "--help") else theirs).append(word)
    return own, theirs


def main(arguments: Sequence[str]) -> None:
    """Run the verb with the arguments after the program's name."""
    own, theirs = separated(arguments)
    run_verb("harness", __doc__, functools.partial(load, theirs), flags=FLAGS, argv=own)


if __name__ == "__main__":
    main(sys.argv[1:])
