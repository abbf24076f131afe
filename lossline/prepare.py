"""Tokenize text into token stores, or train vocabularies.

  python -m lossline.prepare --gin_file=gin_configs/data/quickstart_vocabularies.gin \\
      --train_vocabulary
  python -m lossline.prepare --gin_file=gin_configs/data/quickstart_stores.gin

Results (<root> is prepare.root; <out> is prepare.out, by default <root>/stores):

  <root>/vocabularies/<name>/tokenizer.json or spiece.model
  <out>/<vocabulary>/<set>/<split>
  <out>/<vocabulary>/tasks/<benchmark>

With --cluster=tcp://host:port, the workers of a Dask scheduler tokenize; they must see the same
paths. The stores are the same bit for bit.

After a kill, the same command resumes. Existing vocabularies and stores are kept, and a store of
another text or vocabulary is never overwritten.
"""

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Import what preparing needs, and return its options and components."""
    from lossline import vocabularies
    from lossline.corpora import sources
    from lossline.corpora.items import Questions
    from lossline.corpora.noisy import Noisy
    from lossline.corpora.pools import Pool
    from lossline.corpora.selected import Selected, selections
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
            "pool": Pool,
            "selected": Selected,
            "selections": selections,
            "noisy": Noisy,
            "tfds": sources.Tfds,
            "seqio_task": sources.SeqioTask,
            "questions": Questions,
        },
    )


FLAGS = {
    "cluster": Flag(
        "prepare.cluster", "'local' or the address of a Dask scheduler, tcp://host:port"
    ),
    "train_vocabulary": Flag(
        "prepare.train_vocabulary", "train prepare.vocabularies, make no stores", kind="switch"
    ),
}

if __name__ == "__main__":
    run_verb("prepare", __doc__, load, flags=FLAGS)
