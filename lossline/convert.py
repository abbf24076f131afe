"""Convert a Hugging Face folder or GGUF file to a run directory, or a run directory to a folder.

    python -m lossline.convert pythia-160m runs/pythia-160m --pretraining_data=pile \\
        --gin.convert.tokens=299892736000 --gin.convert.step=143000
    python -m lossline.convert runs/wiki-llama-1a2b3c4d wiki-llama-hf --vocabulary=tokenizer.json

Only safetensors and GGUF files are read: no pickle is loaded, and no code of the folder runs.
"""

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Return the verb, with its imports."""
    from lossline.conversion.runs import ConvertOptions, convert
    from lossline.vocabularies import HuggingFace, SentencePiece, Tiktoken

    components = {"huggingface": HuggingFace, "sentencepiece": SentencePiece, "tiktoken": Tiktoken}
    return Verb(options=ConvertOptions, run=convert, components=components)


FLAGS = {
    "source": Flag(
        "convert.source", "Hugging Face folder, GGUF file or run directory", "positional"
    ),
    "target": Flag("convert.target", "run directory, or new folder", "positional"),
    "pretraining_data": Flag("convert.pretraining_data", "pretraining data of a foreign model"),
    "vocabulary": Flag(
        "convert.vocabulary",
        "tokenizer: bytes, or a .json or .model file; default: the model's",
    ),
}

if __name__ == "__main__":
    run_verb("convert", __doc__, load, flags=FLAGS)
