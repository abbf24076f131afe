"""Texts of a seqio Task are exact UTF-8; invalid examples are refused by number."""

from collections.abc import Callable
from typing import Any

import pytest

from lossline.corpora.sources import SeqioTask
from lossline.errors import UserError


@pytest.fixture
def task() -> Callable[..., SeqioTask]:
    """Register a Task with one split that yields the given values of one feature."""
    import seqio
    import tensorflow as tf

    registered = []

    def task(feature: str, values: list, described: Any, *steps: Callable) -> SeqioTask:
        def read(split: str, shuffle_files: bool) -> tf.data.Dataset:
            return tf.data.Dataset.from_tensor_slices({feature: values})

        name = f"texts_{len(registered)}"
        source = seqio.FunctionDataSource(read, splits=["train"])
        features = {"text" if feature == "body" else feature: described}
        seqio.TaskRegistry.add(name, source, preprocessors=steps, output_features=features)
        registered.append(name)
        return SeqioTask(task=name, feature=next(iter(features)))

    yield task
    for name in registered:
        seqio.TaskRegistry.remove(name)


def test_invalid_example_gives_one_line_error(task: Callable[..., SeqioTask]) -> None:
    import seqio
    import tensorflow as tf

    from lossline.corpora.seqio_tasks import TEXT, texts
    from lossline.vocabularies.seqio_adapter import SeqioVocabulary

    ids = seqio.Feature(vocabulary=SeqioVocabulary("bytes"), add_eos=False)
    several = seqio.Feature(
        vocabulary=seqio.PassThroughVocabulary(size=0), add_eos=False, dtype=tf.string, rank=1
    )
    half = SeqioVocabulary("bytes").encode("dé")[:2]  # ends inside a character
    for source, message in (
        (task("text", [b"ok", b"a\xff"], TEXT["text"]), r"example 1 \(from 0\): not UTF-8"),
        (task("targets", [half], ids), r"example 0 \(from 0\): not UTF-8"),
        (task("targets", [b"a\xff"], ids, seqio.preprocessors.tokenize), "a text is not UTF-8"),
        (task("text", [[b"a", b"b"]], several), "an array, not a text"),
        (task("text", [1, 2], TEXT["text"]), "incorrect type for feature 'text'"),
        (task("body", [b"a"], TEXT["text"]), "missing expected output feature"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            list(texts(source, "train"))
        assert "\n" not in str(caught.value)
    kept = task("text", ["a\0", "<|endoftext|>", ""], TEXT["text"])
    assert list(texts(kept, "train")) == ["a\0", "<|endoftext|>", ""]
