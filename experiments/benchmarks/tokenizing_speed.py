"""Measure how fast `prepare` tokenizes, what a second core adds, and whether memory grows.

    python -m lossline.gather --root data --domains wiki pubmed python
    python experiments/benchmarks/tokenizing_speed.py speed --root data
    python experiments/benchmarks/tokenizing_speed.py cores --root data
    python experiments/benchmarks/tokenizing_speed.py memory --gigabytes 0.5 1 2
    python experiments/benchmarks/tokenizing_speed.py assembly

speed: `lossline.stores.tokenization.tokenize` (ids, lengths, eos, and the check that the tokens
have the bytes of the text), in chunks as in `prepare`, against the batch encoding of each
vocabulary's own library, on one thread and the same texts. CPU seconds, best of interleaved rounds;
vocabularies are loaded anew for every round, so no words are known at its start. Text: the first
megabytes of each set, and the translated messages of the installed Sphinx, in about 60 languages.
Ids are compared.

cores: the same work in one process and in two at once. Efficiency is the CPU seconds of one,
divided by those of each of two: what they take from each other through caches and memory, whatever
else the machine does. The ratio of wall times is printed too.

memory: `python -m lossline.prepare` on JSON lines of made-up words (Zipf's law, 1% of the words
occur once). Peak memory of the process and its children together (proportional set size, sampled),
and of the largest process.

assembly: what is serial for one store: its ids written as an array, with their SHA-256, and the
SHA-256 of the source files. Bytes per second of one process.

Each mode prints a table and writes its part of tokenizing_speed.json next to this file.
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from fit_speed import environment

from lossline import vocabularies
from lossline.corpora import sources
from lossline.corpora.gathering import file_sha256
from lossline.errors import UserError
from lossline.stores import arrays
from lossline.stores.tokenization import CHUNK_BYTES, chunked, tokenize
from lossline.vocabularies import HuggingFace, Normalization, Tiktoken, Vocabulary
from lossline.vocabularies.training import EOS, PAD, Algorithm, train
from lossline.vocabularies.word_patterns import LLAMA3

METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "never"}


def read_texts(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the first texts of each gathered set, and the messages of Sphinx."""
    found = {
        name: first(sources.documents(sources.gathered(options.root, name), "train"), options)
        for name in options.sets
    }
    spec = util.find_spec("sphinx")
    if spec is not None and spec.origin:
        files = sorted(Path(spec.origin).parent.glob("locale/*/LC_MESSAGES/*.po"))
        messages = (path.read_text(encoding="utf-8") for path in files)
        found["60 languages"] = first(messages, options)
    return found


def first(texts: Iterator[str], options: argparse.Namespace) -> list[str]:
    """Return the first megabytes of texts, in random order."""
    kept, size = [], 0
    for text in texts:
        kept.append(text)
        size += len(text.encode())
        if size >= options.megabytes * 1e6:
            break
    random.Random(0).shuffle(kept)
    return kept


def huggingface(folder: Path, name: str, tokenizer: Any, texts: list[str], **options: Any) -> str:
    """Train a tokenizer of the tokenizers library and return its file."""
    from tokenizers import trainers

    names = [EOS, PAD, "<unk>", *options.pop("names", ())]
    kind = getattr(trainers, options.pop("trainer"))
    trainer = kind(show_progress=False, special_tokens=names, **options)
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tree = json.loads(tokenizer.to_str())
    tree["added_tokens"] = [token for token in tree["added_tokens"] if "0x" not in token["content"]]
    path = folder / f"{name}.json"
    path.write_text(json.dumps(tree))
    return str(path)


def make_vocabularies(folder: Path, texts: list[str]) -> dict[str, Any]:
    """Train a vocabulary of every kind; return the specification of each."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    specs: dict[str, Any] = {"bytes": "bytes"}
    for size in (4096, 32_000):
        path = folder / f"bpe{size}.json"
        path.write_bytes(train(texts, Algorithm.BPE, size, name="bpe"))
        specs[f"tokenizers: BPE {size}, GPT-2's words"] = str(path)
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    llama3 = huggingface(
        folder, "llama3", tokenizer, texts, trainer="BpeTrainer", vocab_size=32_000,
        initial_alphabet=alphabet,
    )  # fmt: skip
    specs["tokenizers: BPE 32000, Llama 3's words"] = llama3
    byte_names = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    llama2 = huggingface(
        folder, "llama2", tokenizer, texts, trainer="BpeTrainer", vocab_size=32_000,
        names=byte_names, limit_alphabet=1000,
    )  # fmt: skip
    without_words = json.loads(Path(llama2).read_text())
    without_words["pre_tokenizer"] = {**METASPACE, "split": False}
    Path(llama2).write_text(json.dumps(without_words))
    specs["tokenizers: BPE 32000 over the text, Llama 2"] = llama2
    for algorithm in (Algorithm.SENTENCEPIECE_BPE, Algorithm.UNIGRAM):
        path = folder / f"{algorithm.value}.model"
        path.write_bytes(train(texts, algorithm, 8000, name="model"))
        specs[f"sentencepiece: {algorithm.value} 8000"] = str(path)
    specs["tokenizers: Unigram 8000"] = unigram(folder, folder / "unigram.model")
    ranks = folder / "ranks.tiktoken"
    pieces = [piece for piece in vocabularies.load(llama3).pieces if piece]
    lines = [base64.b64encode(piece) + b" %d\n" % rank for rank, piece in enumerate(pieces)]
    ranks.write_bytes(b"".join(lines))
    for name in ("cl100k", "o200k"):
        specs[f"tiktoken: {len(pieces)}, {name}"] = Tiktoken(path=str(ranks), pattern=name)
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specs["tokenizers: WordPiece"] = huggingface(
        folder, "wordpiece", tokenizer, texts, trainer="WordPieceTrainer", vocab_size=32_000
    )
    return specs


def unigram(folder: Path, model: Path) -> str:
    """Write a SentencePiece Unigram as a tokenizer.json, as T5 and XLM-R are published."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model.read_bytes())
    size = processor.get_piece_size()
    pieces = [[processor.id_to_piece(i), processor.get_score(i)] for i in range(size)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    names = [name for i, (name, _) in enumerate(pieces) if processor.is_control(i)]
    tree = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [
            {"id": processor.piece_to_id(name), "content": name, "special": True, **flags}
            for name in names
        ],
        "pre_tokenizer": {**METASPACE, "split": True}, "post_processor": None, "decoder": None,
        "model": {
            "type": "Unigram", "unk_id": processor.unk_id(), "byte_fallback": True,
            "vocab": pieces,
        },
    }  # fmt: skip
    path = folder / "unigram.json"
    path.write_text(json.dumps(tree))
    return str(path)


def load(spec: Any) -> Vocabulary:
    """Load a vocabulary without what its library does to the text."""
    if isinstance(spec, str) and spec.endswith(".json"):
        spec = HuggingFace(path=spec, normalization=Normalization.DROP)
    return vocabularies.load(spec)


def library(vocabulary: Any, texts: list[str]) -> Callable[[], list[Sequence[int]]]:
    """Return the batch encoding of the vocabulary's own library, on one thread."""
    if hasattr(vocabulary, "_tokenizer"):
        encode = vocabulary._tokenizer.encode_batch_fast
        return lambda: [found.ids for found in encode(texts, add_special_tokens=False)]
    if hasattr(vocabulary, "_processor"):
        return lambda: vocabulary._processor.encode(texts, num_threads=1)
    if hasattr(vocabulary, "_encoding"):
        return lambda: vocabulary._encoding.encode_ordinary_batch(texts, num_threads=1)
    return lambda: [np.frombuffer(text.encode(), np.uint8) + np.int32(3) for text in texts]


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Return MB per CPU second of every vocabulary and kind of text."""
    texts = read_texts(options)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        everything = [text for of_set in texts.values() for text in of_set[::4]]
        specs = make_vocabularies(Path(folder), everything)
        for name, spec in specs.items():
            if options.only not in name:
                continue
            for kind, of_kind in texts.items():
                try:
                    row = {"vocabulary": name, "text": kind, **compared(spec, of_kind, options)}
                except UserError as error:
                    print(f"{name}: refused: {str(error)[-90:]}", flush=True)
                    rows.append({"vocabulary": name, "refused": True})
                    break
                rows.append(row)
                print(
                    f"{name:44} {kind:13} {row['library']:7.2f} {row['ours']:7.2f} MB/s "
                    f"{row['ratio']:6.2f} x  {'equal' if row['equal'] else 'OTHER IDS'}",
                    flush=True,
                )
    return {"environment": versions(), "rounds": options.rounds, "rows": rows}


def compared(spec: Any, texts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Return the speed of the library and of `tokenize` on the same texts, MB per CPU second."""
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    chunks = list(chunked(texts, CHUNK_BYTES))
    best = {"library": float("inf"), "ours": float("inf")}
    for _ in range(options.rounds):
        vocabulary = load(spec)
        started = time.process_time()
        tokens = [tokenize(chunk, vocabulary) for chunk in chunks]
        best["ours"] = min(best["ours"], time.process_time() - started)
        encode = library(load(spec), texts)
        started = time.process_time()
        expected = encode()
        best["library"] = min(best["library"], time.process_time() - started)
    joined = np.concatenate([found.ids for found in tokens])
    ends = np.cumsum(np.concatenate([found.lengths for found in tokens])) - 1
    equal = np.array_equal(np.delete(joined, ends), np.concatenate(expected))
    rates = {name: megabytes / seconds for name, seconds in best.items()}
    return {**rates, "ratio": rates["ours"] / rates["library"], "equal": bool(equal),
            "slow_because": vocabulary.slow_because}  # fmt: skip


def work(spec: Any, chunks: list[list[str]], start: Any, results: Any) -> None:
    """Tokenize the chunks when all processes are ready; report wall and CPU seconds."""
    vocabulary = load(spec)
    tokenize(chunks[0], vocabulary)
    start.wait()
    wall, busy = time.perf_counter(), time.process_time()
    for chunk in chunks:
        tokenize(chunk, vocabulary)
    results.put((time.perf_counter() - wall, time.process_time() - busy))


def cores(options: argparse.Namespace) -> dict[str, Any]:
    """Return wall and CPU seconds of one process and of two at once."""
    texts = [text for found in read_texts(options).values() for text in found]
    random.Random(1).shuffle(texts)
    chunks = list(chunked(texts, CHUNK_BYTES))
    context = multiprocessing.get_context("spawn")
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bpe.json"
        path.write_bytes(train(texts[::4], Algorithm.BPE, 32_000, name="bpe"))
        for number in range(options.rounds):
            row: dict[str, float] = {}
            for count in (1, 2):
                start, results = context.Barrier(count), context.Queue()
                arguments = (str(path), chunks, start, results)
                processes = [context.Process(target=work, args=arguments) for _ in range(count)]
                for process in processes:
                    process.start()
                found = [results.get() for _ in processes]
                for process in processes:
                    process.join()
                row[f"wall_{count}"] = max(wall for wall, _ in found)
                row[f"cpu_{count}"] = sum(busy for _, busy in found) / count
            row["efficiency"] = row["cpu_1"] / row["cpu_2"]
            row["throughput"] = 2 * row["wall_1"] / row["wall_2"]
            rounds.append(row)
            print(
                f"round {number}: one {row['cpu_1']:.2f} CPU s, each of two {row['cpu_2']:.2f}: "
                f"{row['efficiency']:.0%}; throughput by wall time {row['throughput']:.2f} x, load "
                f"{os.getloadavg()[0]:.1f}",
                flush=True,
            )
    return {
        "environment": versions(),
        "rounds": rounds,
        "efficiency": float(np.median([row["efficiency"] for row in rounds])),
        "throughput": float(np.median([row["throughput"] for row in rounds])),
    }


def write_lines(path: Path, size: int) -> int:
    """Write JSON lines of made-up words with ``size`` bytes of text; return the documents."""
    rng = np.random.default_rng(0)
    draw = random.Random(0)
    letters = "etaoinshrdlucmfwygpbvkqjxz"
    words = ["".join(draw.choices(letters, k=draw.randrange(2, 11))) for _ in range(200_000)]
    table = np.array(words, object)
    weights = np.cumsum(1 / np.arange(1, len(words) + 1) ** 1.05)
    count = written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            places = np.searchsorted(weights, rng.random(1 << 19) * weights[-1])
            found = table[np.minimum(places, len(words) - 1)]
            rare = rng.random(found.size) < 0.01
            found[rare] = [f"{value:x}" for value in rng.integers(1 << 40, size=int(rare.sum()))]
            stops = np.cumsum(rng.lognormal(5.5, 1.0, 2000).astype(int) + 1)
            stops = stops[stops < found.size]
            for part in np.split(found, stops)[:-1]:
                text = " ".join(part)
                file.write(f'{{"text": "{text}"}}\n')
                written += len(text)
                count += 1
                if written >= size:
                    break
    return count


def memory_of(process: int) -> tuple[int, int]:
    """Return the proportional set size of a process and its descendants, and the largest one."""
    total = largest = 0
    waiting = [process]
    while waiting:
        number = waiting.pop()
        try:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
            size = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            for task in Path(f"/proc/{number}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, StopIteration):  # the process has ended
            continue
        total, largest = total + size, max(largest, size)
    return total << 10, largest << 10


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Return the peak memory of `prepare` for texts of several sizes."""
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        write_lines(folder / "sample.jsonl", 3_000_000)
        lines = (folder / "sample.jsonl").read_text().splitlines()
        vocabulary = folder / "words.json"
        sample = (json.loads(line)["text"] for line in lines)
        vocabulary.write_bytes(train(sample, Algorithm.BPE, 4096, name="words"))
        named = "bytes" if options.bytes else str(vocabulary)
        for gigabytes in options.gigabytes:
            path = folder / "text.jsonl"
            documents = write_lines(path, int(gigabytes * 1e9))
            row = {"gigabytes": gigabytes, "documents": documents}
            row.update(prepared(folder, path, named, options.processes))
            rows.append(row)
            print(
                f"{gigabytes:5.2f} GB, {documents:,} documents: {row['peak_mib']:.0f} MiB in all, "
                f"{row['largest_mib']:.0f} MiB the largest process, "
                f"{row['cpu_seconds']:.0f} CPU s, {row['wall_seconds']:.0f} s",
                flush=True,
            )
            path.unlink()
    sizes = [row["gigabytes"] for row in rows]
    peaks = [row["peak_mib"] for row in rows]
    slope = float(np.polyfit(sizes, peaks, 1)[0]) if len(rows) > 1 else float("nan")
    print(f"slope: {slope:.1f} MiB per GB of text")
    return {"environment": versions(), "vocabulary": named.rpartition("/")[2], "rows": rows,
            "processes": options.processes, "slope_mib_per_gb": slope}  # fmt: skip


def prepared(folder: Path, lines: Path, vocabulary: str, processes: int) -> dict[str, float]:
    """Return peak memory and seconds of one `prepare`; its store is deleted."""
    bindings = (
        f'prepare.root = "{folder}/data"', "prepare.stores = (@store(),)",
        f"prepare.processes = {processes}", f'store.vocabulary = "{vocabulary}"',
        "store.sets = (@jsonl(),)", 'store.splits = ("train",)', 'jsonl.name = "words"',
        f'jsonl.train = ("{lines}",)',
    )  # fmt: skip
    command = [sys.executable, "-m", "lossline.prepare"]
    command += [f"--gin.{binding}" for binding in bindings]
    started, before, peak, largest = time.perf_counter(), os.times(), 0, 0
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        while process.poll() is None:
            total, one = memory_of(process.pid)
            peak, largest = max(peak, total), max(largest, one)
            time.sleep(0.2)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"prepare failed: {said.read()[-2000:]}")
    after = os.times()
    shutil.rmtree(folder / "data")
    return {
        "peak_mib": peak / 2**20,
        "largest_mib": largest / 2**20,
        "cpu_seconds": after.children_user + after.children_system
        - before.children_user - before.children_system,
        "wall_seconds": time.perf_counter() - started,
    }  # fmt: skip


def assembly(options: argparse.Namespace) -> dict[str, Any]:
    """Return the bytes per second of writing an array of ids and of hashing a file."""
    block = np.random.default_rng(0).integers(128_000, size=arrays.SHARD, dtype=np.uint32)
    blocks = 8
    row: dict[str, Any] = {"megabytes": blocks * block.nbytes / 1e6}
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        wall, busy = time.perf_counter(), time.process_time()
        arrays.write(
            Path(temporary) / "ids", [block] * blocks, dtype="uint32", size=blocks * block.size
        )
        row["write_wall"] = row["megabytes"] / (time.perf_counter() - wall)
        row["write_cpu"] = row["megabytes"] / (time.process_time() - busy)
        path = Path(temporary) / "file"
        path.write_bytes(block.tobytes())
        busy = time.process_time()
        for _ in range(blocks):
            file_sha256(path)
        row["hash_cpu"] = row["megabytes"] / (time.process_time() - busy)
    print(
        f"array of ids: {row['write_wall']:.0f} MB/s of wall time, {row['write_cpu']:.0f} MB per "
        f"CPU second; SHA-256 of a file: {row['hash_cpu']:.0f} MB per CPU second"
    )
    return {"environment": versions(), **row}


def versions() -> dict[str, object]:
    """Return the machine and the versions of the libraries."""
    names = ("tokenizers", "sentencepiece", "tiktoken")
    return {**environment(), **{name: metadata.version(name) for name in names}}


MODES = {"speed": speed, "cores": cores, "memory": memory, "assembly": assembly}


def main() -> None:
    """Run one mode and write its part of the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("mode", choices=tuple(MODES))
    parser.add_argument("--root", type=Path, default=Path("data"), help="of gathered corpora")
    parser.add_argument("--sets", nargs="+", default=["wiki", "pubmed", "python"])
    parser.add_argument("--megabytes", type=float, default=4.0, help="of each set")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="vocabularies whose name contains this")
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.5, 1, 2])
    parser.add_argument("--processes", type=int, default=2, help="of prepare")
    parser.add_argument("--bytes", action="store_true", help="measure memory with bytes as tokens")
    parser.add_argument("--folder", type=Path, help="for the text and the stores of `memory`")
    parser.add_argument("--name", default="", help="of this result in the file")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    found = {"command": " ".join(["python", *sys.argv]), **MODES[options.mode](options)}
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    results[options.name or options.mode] = found
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
