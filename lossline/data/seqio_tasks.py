"""Sources as seqio Tasks, and the texts of a Task. Imports TensorFlow; used by ``prepare`` alone."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from typing import Any

import seqio
import tensorflow as tf

from lossline.data import sources
from lossline.data.seqio_vocabularies import SeqioVocabulary
from lossline.data.sources import FileSource, SeqioTask, Source, Tfds
from lossline.errors import UserError

TEXT = {
    "text": seqio.Feature(
        vocabulary=seqio.PassThroughVocabulary(size=0), add_eos=False, dtype=tf.string, rank=0
    )
}


def task_for(source: Source) -> Any:
    """The seqio Task (or Mixture) of a source; registered as ``lossline.<name>`` unless it is one already.

    Raises:
        UserError: no Task of that name, or a module that does not exist.
    """
    tf.config.set_visible_devices([], "GPU")  # text needs none, and TensorFlow would take it whole
    if isinstance(source, SeqioTask):
        return _registered(source)
    name = f"lossline.{source.name}"
    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    if isinstance(source, Tfds):
        data = seqio.TfdsDataSource(
            tfds_name=source.dataset,
            tfds_data_dir=source.data_dir or None,
            splits={"train": source.train, "validation": source.validation},
        )
        steps = [functools.partial(seqio.preprocessors.rekey, key_map={"text": source.feature})]
    else:
        splits = [split for split in ("train", "validation") if getattr(source, split)]

        def read(split: str, shuffle_files: bool) -> Any:
            del shuffle_files  # the order of the files is the order of the store
            return _read_files(source, split)

        data = seqio.FunctionDataSource(read, splits=splits)
        steps = []
    return seqio.TaskRegistry.add(
        name, source=data, preprocessors=steps, output_features=TEXT, metric_fns=[]
    )


def texts(source: Source, split: str) -> Iterator[str]:
    """Texts of a split, in the Task's own order.

    Raises:
        UserError: the Task has no such split or feature, or yields ids that cannot be text again.
    """
    task = task_for(source)
    if split not in task.splits:
        raise UserError(
            f"{task.name}: no split {split!r}; it has {', '.join(map(str, task.splits))}"
        )
    feature = source.feature if isinstance(source, SeqioTask) else "text"
    decode = _decoder(task, feature)
    tf.random.set_seed(0)  # how a Mixture interleaves its Tasks is drawn
    dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False, num_epochs=1)
    for example in dataset.as_numpy_iterator():
        yield decode(example[feature])


def _registered(source: SeqioTask) -> Any:
    for module in source.modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(f"seqio_task.modules: {error}; correct the name") from error
    try:
        return seqio.get_mixture_or_task(source.task)
    except ValueError as error:
        raise UserError(
            f"seqio_task.task: no Task or Mixture {source.task!r}; name the modules that register it"
        ) from error


def _read_files(source: FileSource, split: str) -> Any:
    return tf.data.Dataset.from_generator(
        lambda: ({"text": text} for text in sources.documents(source, split)),
        output_signature={"text": tf.TensorSpec([], tf.string)},
    )


def _decoder(task: Any, feature: str) -> Any:
    """How to get text out of a feature: it is text, or ids of a vocabulary that keeps text exactly."""
    if feature not in task.output_features:
        raise UserError(
            f"{task.name}: no feature {feature!r}; it has {', '.join(task.output_features)}"
        )
    described = task.output_features[feature]
    if described.dtype == tf.string:
        return bytes.decode
    if isinstance(described.vocabulary, SeqioVocabulary):
        return described.vocabulary.exact.decode
    raise UserError(
        f"{task.name}: {feature!r} holds ids of {type(described.vocabulary).__name__}, which need not be "
        "the text exactly; name a feature that holds text"
    )
