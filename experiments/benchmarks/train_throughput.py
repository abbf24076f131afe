"""Measure speed and memory of training against other libraries, in one run.

    python experiments/benchmarks/train_throughput.py \\
        --peers_python=PEERS/bin/python --jla_python=JLA/bin/python

Every contender is a process with its own Python that builds its model once. In each round every
contender takes its turn while the others wait. A busy machine therefore slows all of them, and the
ratios are reliable. `--allocator` gives all contenders one setting. `--peers_python` is an
environment with torch, transformers and mambapy; `--jla_python` is one with jax-linear-attention.
Without them the table lists the missing contenders. Repeat `--ours_python` to run lossline in
several environments (versions of JAX).

On CPU it measures an 11M Llama with the training step of `lossline.train`, the speed that this
command logs, one Mamba mixer, one Mamba-2 mixer, and compile times by depth. With `--device=gpu` it
measures Llamas of 124M to 1.3B, Mamba-2 and Mamba. `--small` runs the same code in seconds. The
script prints tables and writes them, with versions, date and command, to `--output`. It uses only
the standard library.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import queue
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from train_throughput_cases import Case, Contender, Target, cases

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
# glibc reads these before Python starts. "plain": what a user gets; lossline keeps freed memory
# while it is little (`lossline.heap`). "keep": freed memory is kept, so that it is not zeroed again
# in every step. "huge": pages of 2 MB; freed memory is given back. "mixed": buffers below 32 MiB
# are kept, larger ones are in huge pages and given back.
_KEEP = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "34359738368"}
_HUGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
ALLOCATORS = {
    "plain": {},
    "keep": {**_KEEP, "MALLOC_MMAP_MAX_": "0"},
    "huge": _HUGE,
    "mixed": {**_KEEP, **_HUGE, "MALLOC_MMAP_THRESHOLD_": "33554432"},
}
FIRST_STEPS = 3  # steps whose losses are compared


class WorkerFailed(Exception):
    """Raised when a contender cannot take part; the message is one line."""


class Worker:
    """A contender in its own process."""

    def __init__(
        self, contender: Contender, *, name: str, python: str, task: dict[str, Any]
    ) -> None:
        self.contender = contender
        self.name = name
        self.seconds: list[float] = []  # per step, of each round
        self.cpu_seconds: list[float] = []  # of all threads; a busy machine affects it less
        self.values: list[dict[str, float]] = []
        self.result: dict[str, Any] = {"name": name}
        self.steps = 1
        self._answers: queue.Queue[str] = queue.Queue()
        script = HERE / f"train_throughput_{contender.library}.py"
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [python, str(script), json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment(task["device"], small=task["small"], allocator=task["allocator"]),
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def answer(self, deadline: float) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            WorkerFailed: the process reported an error, ended, or did not answer by ``deadline``.
        """
        try:
            line = self._answers.get(timeout=max(deadline - time.monotonic(), 0.1))
        except queue.Empty:
            raise WorkerFailed("not done within the time budget") from None
        if not line:
            raise WorkerFailed(f"the process ended: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer

    def ready(self, deadline: float) -> None:
        """Wait for the first steps."""
        self.result |= self.answer(deadline)

    def turn(self, deadline: float, *, keep: bool = True) -> float:
        """Run one turn and return its seconds per step."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"steps": self.steps}) + "\n")
        self._process.stdin.flush()
        answer = self.answer(deadline)
        if "values" in answer:
            self.values.append(answer["values"])
            return 0.0
        seconds = answer["seconds"] / self.steps
        if keep:
            self.seconds.append(seconds)
            self.cpu_seconds.append(answer["cpu_seconds"] / self.steps)
        return seconds

    def finish(self) -> None:
        """Ask the process for its memory and let it end; do nothing if it was killed."""
        if self._process.poll() is not None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(WorkerFailed, OSError):
            self._process.stdin.close()
            self.result |= self.answer(time.monotonic() + 10)
        try:
            self._process.wait(timeout=10)
            self._log.close()
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return lines[-1][:300] if lines else f"exit status {self._process.wait()}"


def environment(device: str, *, small: bool, allocator: str) -> dict[str, str]:
    """Return the environment variables of every worker.

    A small run keeps the XLA flags of its caller, because its times are not used.
    """
    here = {**os.environ, **ALLOCATORS[allocator], "TF_CPP_MIN_LOG_LEVEL": "2"}
    here["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), here.get("PYTHONPATH")]))
    if device == "cpu":
        here["JAX_PLATFORMS"] = "cpu"
        if not small:
            here.pop("XLA_FLAGS", None)  # it may set virtual devices
    else:
        here.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    return here


class Run:
    """All cases of one command."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        self.peaks: dict[str, float] = {}  # GFLOP/s by dtype
        self.pythons = {
            "ours": args.ours_python or [sys.executable],
            "torch": [args.peers_python] if args.peers_python else [],
            "jla": [args.jla_python] if args.jla_python else [],
        }
        self.labels = self._labels()
        chosen = cases(device=args.device, small=args.small)
        if args.cases:
            wanted = args.cases.split(",")
            if unknown := [w for w in wanted if not any(c.name.startswith(w) for c in chosen)]:
                names = ", ".join(case.name for case in chosen)
                sys.exit(f"no case {', '.join(unknown)}: choose one of {names}")
            chosen = tuple(c for c in chosen if any(c.name.startswith(w) for w in wanted))
        self.cases = chosen

    def _labels(self) -> dict[str, str]:
        """Return what is added to the name of lossline by Python: the version of JAX, if there are
        several.
        """
        pythons = self.pythons["ours"]
        if len(pythons) == 1:
            return {pythons[0]: ""}
        ask = "import jax; print(jax.__version__)"
        shown = {
            python: subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
            for python in pythons
        }
        return {python: f", jax {done.stdout.strip()}" for python, done in shown.items()}

    def results(self) -> Iterator[dict[str, Any]]:
        """Yield the result of each case as it ends."""
        end = time.monotonic() + self.args.budget_s
        for i, case in enumerate(self.cases):
            left = sum(other.share for other in self.cases[i:])
            seconds = (end - time.monotonic()) * case.share / left
            yield self._case(case, time.monotonic() + seconds)

    def _case(self, case: Case, deadline: float) -> dict[str, Any]:
        without = (self.args.without or "").split(",")
        contenders = [c for c in case.contenders if c.name not in without]
        missing = [
            c.name for c in case.contenders if c.name in without or not self.pythons[c.library]
        ]
        here = [
            (contender, python)
            for contender in contenders
            for python in self.pythons[contender.library]
        ]
        workers: list[Worker] = []
        failed: dict[str, str] = {}
        if case.together:
            workers = [
                w for c, python in here if (w := self._start(case, c, python, deadline, failed))
            ]
            self._rounds(workers, deadline, failed)
            for worker in workers:
                worker.finish()
        else:
            for n, (contender, python) in enumerate(here):
                left = deadline - time.monotonic()
                until = time.monotonic() + left / (len(here) - n)
                if worker := self._start(case, contender, python, until, failed):
                    self._rounds([worker], until, failed)
                    worker.finish()
                    workers.append(worker)
        workers = [w for w in workers if w.name not in failed]
        for worker in workers:
            self._note_peaks(worker)
        return self._result(case, workers, missing, failed)

    def _start(
        self, case: Case, contender: Contender, python: str, deadline: float, failed: dict[str, str]
    ) -> Worker | None:
        """Start a contender and wait until it is ready.

        Contenders start one after the other, so that each has the machine to itself.
        """
        label = self.labels[python] if contender.library == "ours" else ""
        task = {
            "kind": case.kind,
            "device": self.args.device,
            "small": self.args.small,
            "allocator": self.args.allocator,
            "first_steps": FIRST_STEPS,
            "cache": str(self.folder / "cache"),
            **case.task,
            **contender.task,
        }
        if case.shared_weights:
            task["weights"] = str(self.folder / f"{case.name}.npz")
        print(f"  {contender.name}{label} …", file=sys.stderr, flush=True)
        worker = Worker(contender, name=contender.name + label, python=python, task=task)
        try:
            # Limit the start of each, so that time is left for the rounds of the others.
            worker.ready(time.monotonic() + (deadline - time.monotonic()) / 4)
        except WorkerFailed as failure:
            failed[worker.name] = str(failure)
            worker.kill()
            return None
        return worker

    def _rounds(self, workers: list[Worker], deadline: float, failed: dict[str, str]) -> None:
        alive = list(workers)
        for number in range(-1, self.args.rounds):
            for worker in list(alive):
                if number >= 0 and worker.values and worker.contender.task.get("kind") != "matmul":
                    continue  # measured once
                try:
                    seconds = worker.turn(deadline, keep=number >= 0)
                    if number < 0 and seconds:  # the first turn only measures the length of a step
                        worker.steps = max(1, min(200, round(self.args.seconds / seconds)))
                except WorkerFailed as failure:
                    alive.remove(worker)
                    if not worker.seconds:
                        failed[worker.name] = str(failure)
                    worker.kill()
            if time.monotonic() > deadline:
                return

    def _note_peaks(self, worker: Worker) -> None:
        for values in worker.values:
            for name, rate in values.items():
                dtype, _, what = name.partition(" ")
                if what == "data sheet":
                    self.peaks[dtype] = rate
                    self.peaks[f"{dtype} fixed"] = rate
                elif what.isdigit() and f"{dtype} fixed" not in self.peaks:
                    self.peaks[dtype] = max(self.peaks.get(dtype, 0.0), rate)

    def _result(
        self, case: Case, workers: list[Worker], missing: list[str], failed: dict[str, str]
    ) -> dict[str, Any]:
        tokens = case.task.get("batch", 0) * case.task.get("length", 0)
        timed = [w for w in workers if w.seconds]
        flops = case.flops_per_token
        for worker in workers:
            flops = flops or worker.result.get("facts", {}).get("flops_per_token")
        rows = []
        for worker in timed:
            row = worker.result | {
                "seconds_per_step": worker.seconds,
                "cpu_seconds_per_step": worker.cpu_seconds,
                "steps": worker.steps,
            }
            row["tokens_per_second"] = {
                "min": tokens / max(worker.seconds),
                "median": tokens / median(worker.seconds),
                "max": tokens / min(worker.seconds),
            }
            if case.kind == "model" and flops:
                row["gflops"] = row["tokens_per_second"]["max"] * flops / 1e9
            rows.append(row)
        values = {w.name: w.values for w in workers if w.values}
        judged = [judge(t, timed, rows, self.peaks) for t in case.targets]
        return {
            "case": case.name,
            "task": case.task,
            "flops_per_token": flops if case.kind == "model" else None,
            "rows": rows,
            "values": values,
            "targets": [target for found in judged for target in found],
            "left_out": missing,
            "failed": failed,
        }


def judge(
    target: Target, workers: list[Worker], rows: list[dict[str, Any]], peaks: dict[str, float]
) -> list[dict[str, Any]]:
    """Return the target for each environment of lossline; nothing if one side of it is missing."""
    by_name = {row["name"]: row for row in rows}
    slow = next((w for w in workers if w.contender.name == target.slower), None)
    found = []
    for fast in (w for w in workers if w.contender.name == target.faster):
        row = by_name[fast.name]
        ratio: float | None = None
        spread: list[float] = []
        if target.of == "peak" and "gflops" in row and target.slower in peaks:
            ratio = row["gflops"] / peaks[target.slower]
        elif target.of == "memory" and slow and row.get("memory_mb"):
            ratio = by_name[slow.name]["memory_mb"] / row["memory_mb"]
        elif target.of == "speed" and slow:
            pairs = zip(slow.seconds, fast.seconds, strict=False)
            spread = sorted(theirs / ours for theirs, ours in pairs)
            ratio = median(spread)
        if ratio is None:
            continue
        found.append(
            {
                "faster": fast.name,
                "slower": target.slower,
                "of": target.of,
                "wanted": target.ratio,
                "ratio": ratio,
                "spread": [spread[0], spread[-1]] if spread else None,
                "reached": ratio >= target.ratio,
            }
        )
    return found


def show(result: dict[str, Any], peaks: dict[str, float]) -> str:
    """Return a case as text."""
    task = result["task"]
    title = result["case"]
    if "batch" in task:
        title += f": batch {task['batch']} × {task['length']}"
    if result["flops_per_token"]:
        title += f", {result['flops_per_token'] / 1e6:.1f} MFLOP per token"
    lines = [title]
    rows = result["rows"]
    if rows:
        lines.append(
            f"  {'':32}{'ms/step min':>12}{'median':>9}{'max':>9}{'CPU ms':>9}{'tok/s':>9}"
            f"{'× first':>9}{'GFLOP/s':>9}{'of peak':>9}{'MB':>7}{'loss':>9}"
        )
    for row in rows:
        pairs = zip(row["seconds_per_step"], rows[0]["seconds_per_step"], strict=False)
        ratio = median([theirs / first for theirs, first in pairs])
        times = row["seconds_per_step"]
        dtype = "float32" if "f32" in row["name"] else "bfloat16"
        gflops, peak = row.get("gflops"), peaks.get(dtype)
        loss = (row.get("losses") or [None])[-1]
        lines.append(
            f"  {row['name']:32}{1e3 * min(times):12.1f}{1e3 * median(times):9.1f}"
            f"{1e3 * max(times):9.1f}{1e3 * min(row['cpu_seconds_per_step']):9.1f}"
            f"{row['tokens_per_second']['median']:9.0f}{ratio:9.2f}"
            f"{'' if gflops is None else format(gflops, '.0f'):>9}"
            f"{'' if gflops is None or not peak else format(gflops / peak, '.0%'):>9}"
            f"{row.get('memory_mb') or 0:7.0f}{'' if loss is None else format(loss, '.4f'):>9}"
        )
    for name, measured in result["values"].items():
        for key in measured[0]:
            found = [values[key] for values in measured]
            lines.append(
                f"  {name}: {key}: {min(found):.4g}"
                + (f" … {median(found):.4g} … {max(found):.4g}" if len(found) > 1 else "")
            )
    for target in result["targets"]:
        what = {"speed": "× as fast as", "memory": "× less memory than", "peak": "of the peak in"}
        spread = "" if not target["spread"] else " ({:.2f} … {:.2f})".format(*target["spread"])
        lines.append(
            f"  {'reached' if target['reached'] else 'MISSED '} {target['faster']} is"
            f" {target['ratio']:.2f}{spread} {what[target['of']]} {target['slower']},"
            f" wanted {target['wanted']}"
        )
    if result["left_out"]:
        lines.append(
            f"  left out (no environment, or in --without): {', '.join(result['left_out'])}"
        )
    lines += [f"  failed: {name}: {why}" for name, why in result["failed"].items()]
    return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    """Return the processor and its instructions."""
    facts: dict[str, Any] = {"cores": os.cpu_count(), "system": platform.platform()}
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        pairs = [line.partition(":") for line in text.splitlines()]
        names = {key.strip(): value.strip() for key, _, value in reversed(pairs)}
        facts["processor"] = names.get("model name", platform.machine())
        flags = names.get("flags", "").split()
        wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
        facts["instructions"] = [flag for flag in wanted if flag in flags]
    facts["load"] = list(os.getloadavg())
    return facts


def main() -> None:
    """Parse arguments, measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--small", action="store_true", help="small sizes that take seconds")
    parser.add_argument("--cases", help="names or prefixes, separated by commas (default: all)")
    parser.add_argument("--without", help="contenders to leave out, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="per turn (at least one step)")
    parser.add_argument("--budget_s", type=float, default=7200.0, help="seconds for all cases")
    parser.add_argument("--ours_python", action="append", help="Python with lossline; repeatable")
    parser.add_argument("--peers_python", help="Python with torch, transformers, mambapy")
    parser.add_argument("--jla_python", help="Python with jax-linear-attention")
    parser.add_argument("--allocator", choices=tuple(ALLOCATORS), default="plain", help="see above")
    parser.add_argument("--output", type=Path, default=HERE / "train_throughput.json")
    args = parser.parse_args()
    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine(),
        "allocator": ALLOCATORS[args.allocator],
        "cases": [],
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(args, Path(folder))
        for result in run.results():
            record["cases"].append(result)
            record |= {"load_after": list(os.getloadavg()), "peaks_gflops": run.peaks}
            args.output.write_text(json.dumps(record, indent=1) + "\n")  # the results so far
            print(show(result, run.peaks), flush=True)
    print(f"written: {args.output}")


if __name__ == "__main__":
    main()
