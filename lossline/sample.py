"""Print what a run's model writes after a prompt.

    python -m lossline.sample runs/wiki-llama-1a2b3c4d --prompt "The river" "In 1840,"
    python -m lossline.sample runs/wiki-llama-1a2b3c4d --prompt "The river" --temperature=0

Without a prompt the model begins a text. --temperature=0 takes the most probable token each time.
The vocabulary is found by the hash that the run recorded.
"""

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Return the verb, with its imports."""
    from lossline import vocabularies
    from lossline.cli.sample_command import SampleOptions, sample
    from lossline.sharding.mesh import MeshOptions

    return Verb(
        options=SampleOptions,
        run=sample,
        components={
            "mesh": MeshOptions,
            "bytes": vocabularies.Bytes,
            "sentencepiece": vocabularies.SentencePiece,
            "huggingface": vocabularies.HuggingFace,
            "tiktoken": vocabularies.Tiktoken,
        },
    )


FLAGS = {
    "run": Flag("sample.run", "run directory", "positional"),
    "prompt": Flag("sample.prompts", "beginnings of texts; default: none", "values"),
    "step": Flag("sample.step", "checkpoint; default: the last", "whole"),
    "samples": Flag("sample.samples", "texts per prompt", "whole"),
    "tokens": Flag("sample.tokens", "most new tokens of a text", "whole"),
    "temperature": Flag("sample.temperature", "0: the most probable token each time", "number"),
    "top_k": Flag("sample.top_k", "draw from this many most probable tokens", "whole"),
    "top_p": Flag("sample.top_p", "draw from the tokens of this total probability", "number"),
    "stop": Flag("sample.stop", "strings that end a text", "values"),
    "seed": Flag("sample.seed", "seed of the draws", "whole"),
    "vocabulary": Flag("sample.vocabulary", "default: found by the hash that the run recorded"),
    "out": Flag("sample.out", "file of JSON lines to write, instead of printing"),
}

if __name__ == "__main__":
    run_verb("sample", __doc__, load, flags=FLAGS)
