"""Turn sources into seqio Tasks and read their texts.

Imports TensorFlow; only ``lossline.prepare`` uses it.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterator
from typing import Any

import seqio
import tensorflow as tf

from lossline.corpora import sources
from lossline.corpora.sources import FileSource, PageSource, SeqioTask, Source, Tfds
from lossline.errors import UserError
from lossline.vocabularies.seqio_adapter import SeqioVocabulary

_NOT_IN_A_NAME = re.compile(r"[^\w.:#]")  # seqio refuses other characters, such as hyphens
TEXT = {
    "text": seqio.Feature(
        vocabulary=seqio.PassThroughVocabulary(size=0), add_eos=False, dtype=tf.string, rank=0
    )
}


def task_for(source: Source) -> Any:
    """Return the seqio Task or Mixture of a source.

    A source that is not a seqio Task is registered as the Task ``lossline.<name>``.

    Raises:
        UserError: no Task or Mixture has that name, or a module does not exist.
    """
    tf.config.set_visible_devices([], "GPU")  # TensorFlow would reserve all GPU memory
    if isinstance(source, SeqioTask):
        return _registered(source)
    name = f"lossline.{_NOT_IN_A_NAME.sub('_', source.name)}"
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
        splits = sources.splits(source)

        def read(split: str, shuffle_files: bool) -> Any:
            del shuffle_files  # the store keeps the order of the files
            return _read_files(source, split)

        data = seqio.FunctionDataSource(read, splits=splits)
        steps = []
    return seqio.TaskRegistry.add(
        name, source=data, preprocessors=steps, output_features=TEXT, metric_fns=[]
    )


def texts(source: Source, split: str) -> Iterator[str]:
    """Yield the texts of a split in the order of the Task.

    Raises:
        UserError: the Task lacks the split or the feature, yields ids of a vocabulary that is not
            lossless, or yields a value that is not UTF-8 text.
    """
    task = task_for(source)
    if isinstance(source, Tfds):
        _check_tfds(source, split)
    if split not in task.splits:
        raise UserError(
            f"{task.name}: no split {split!r}. Use one of {', '.join(map(str, task.splits))}."
        )
    feature = source.feature if isinstance(source, SeqioTask) else "text"
    decode = _decoder(task, feature)
    tf.random.set_seed(0)  # a Mixture interleaves its Tasks at random
    try:
        dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False, num_epochs=1)
    except ValueError as error:
        if not str(error).startswith("Task dataset"):  # seqio's message for wrong features or types
            raise
        raise UserError(f"{task.name}: {error}. Name a feature that contains text.") from error
    try:
        for number, example in enumerate(dataset.as_numpy_iterator()):
            yield _text(decode(example[feature]), f"{task.name}/{split}, example {number} (from 0)")
    except tf.errors.OpError as error:
        if _user_errors:
            raise _user_errors.pop() from error
        if "UnicodeDecodeError" in str(error):  # from a tokenizing step of the Task
            raise UserError(
                f"{task.name}/{split}: a text is not UTF-8. Fix or remove the example."
            ) from error
        raise


def _text(data: Any, where: str) -> str:
    if not isinstance(data, bytes):
        raise UserError(f"{where}: an array, not a text. Name a feature that contains one text.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 ({error}). Fix or remove the example in its Task."
        ) from error


def _registered(source: SeqioTask) -> Any:
    for module in source.modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(f"seqio_task.modules: {error}. Correct the name.") from error
    try:
        return seqio.get_mixture_or_task(source.task)
    except ValueError as error:
        raise UserError(
            f"seqio_task.task: no Task or Mixture {source.task!r}. Set seqio_task.modules to the "
            "modules that register it."
        ) from error


def _check_tfds(source: Tfds, split: str) -> None:
    """Raise ``UserError`` unless the dataset is built; nothing is downloaded here."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(source.dataset, data_dir=source.data_dir or None)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise UserError(
            f"tfds.dataset {source.dataset!r}: {reason}. Correct the name or version."
        ) from error
    if not builder.info.splits:
        raise UserError(
            f"tfds.dataset {source.dataset!r}: not built in {builder.data_dir}. Run tfds build "
            "first."
        )
    if source.feature not in (builder.info.features or {}):
        raise UserError(
            f"tfds.dataset {source.dataset!r}: no feature {source.feature!r}. Correct tfds.feature."
        )
    try:
        builder.info.splits[getattr(source, split, split)]  # accepts slices such as "train[:10%]"
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(
            f"tfds.dataset {source.dataset!r}: no split {getattr(source, split, split)!r}. Use one "
            f"of {', '.join(builder.info.splits)}."
        ) from error


# TensorFlow reports an exception of a generator only as text, so the exception is kept here.
_user_errors: list[UserError] = []


def _read_files(source: FileSource | PageSource, split: str) -> Any:
    def examples() -> Iterator[dict[str, str]]:
        try:
            for text in sources.documents(source, split):
                yield {"text": text}
        except UserError as error:
            _user_errors.append(error)
            raise

    return tf.data.Dataset.from_generator(
        examples, output_signature={"text": tf.TensorSpec([], tf.string)}
    )


def _decoder(task: Any, feature: str) -> Any:
    """Return the function that converts a feature's value to the bytes of a text.

    The value is either the text itself, or ids of a ``SeqioVocabulary``.
    """
    if feature not in task.output_features:
        raise UserError(
            f"{task.name}: no feature {feature!r}. Use one of {', '.join(task.output_features)}."
        )
    described = task.output_features[feature]
    if described.dtype == tf.string:
        return lambda value: value
    if isinstance(described.vocabulary, SeqioVocabulary):
        return described.vocabulary.exact.decode_bytes
    raise UserError(
        f"{task.name}: {feature!r} contains ids of {type(described.vocabulary).__name__}, which "
        "may not restore the exact text. Name a feature that contains text."
    )
