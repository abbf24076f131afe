"""Tokenizes text into token stores, or trains a vocabulary.

  python -m lossline.prepare --gin_file=gin_configs/data/quickstart_vocabularies.gin \\
      --train_vocabulary
  python -m lossline.prepare --gin_file=gin_configs/data/quickstart_stores.gin

Made: <root>/vocabularies/<name>/{tokenizer.json,spiece.model}; <out>/<vocabulary>/<set>/<split> and
<out>/<vocabulary>/tasks/<benchmark> (out: <root>/stores). A killed run goes on where it was; what
is ready is left alone; a store of other text or another vocabulary is never overwritten.
"""

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    from lossline import vocabularies
    from lossline.corpora import sources
    from lossline.stores.prepare_all import PrepareOptions, StoreJob, prepare
    from lossline.stores.vocabulary_training import TrainVocabulary

    return Verb(
        options=PrepareOptions,
        run=prepare,
        components={
            "store": StoreJob,
            "vocabulary": TrainVocabulary,
            "bytes": vocabularies.Bytes,
            "sentencepiece": vocabularies.SentencePiece,
            "huggingface": vocabularies.HuggingFace,
            "tiktoken": vocabularies.Tiktoken,
            "jsonl": sources.JsonLines,
            "parquet": sources.Parquet,
            "files": sources.PlainFiles,
            "tfds": sources.Tfds,
            "seqio_task": sources.SeqioTask,
        },
    )


FLAGS = {
    "train_vocabulary": Flag(
        "prepare.train_vocabulary", "train prepare.vocabularies and stop", kind="switch"
    )
}

if __name__ == "__main__":
    run_verb("prepare", __doc__, load, flags=FLAGS)
