"""A real Dask scheduler with real workers over loopback, as processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class StandingCluster:
    """A scheduler, and the workers that a test starts; ``close`` ends them.

    Args:
        folder: folder of the logs.
        environment: variables of all its processes.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = environment
        self.address = ""
        self.workers: list[subprocess.Popen[bytes]] = []
        self.start_scheduler()

    def start_scheduler(self) -> None:
        """Start the scheduler, at the same address as the last one."""
        file = self.folder / "scheduler.json"
        file.unlink(missing_ok=True)
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", self.address.rpartition(":")[2] or "0",
            "--no-dashboard", "--scheduler-file", str(file),
        )  # fmt: skip
        while self.scheduler.poll() is None:
            with contextlib.suppress(FileNotFoundError, ValueError):
                self.address = json.loads(file.read_text())["address"]
                return
            time.sleep(0.02)
        raise RuntimeError((self.folder / "scheduler.log").read_text())

    def start_worker(self, root: Path = ROOT, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker with one thread; it joins in a second or two.

        Args:
            root: folder of the package ``lossline``.
            environment: variables of this process.
        """
        worker = self._start(
            "worker", self.address, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny",
            "--no-dashboard", "--death-timeout", "30", "--local-directory", str(self.folder),
            root=root, **environment,
        )  # fmt: skip
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        """Kill all its processes."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def _start(
        self, kind: str, *options: str, root: Path = ROOT, **environment: str
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{kind}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options],
                stdout=log,
                stderr=log,
                cwd=root,
                # Functions of the tests are imported by name in the workers.
                env=os.environ
                | {"PYTHONPATH": f"{root}:{ROOT / 'tests'}:{ROOT / 'tests' / 'cluster'}"}
                | self.environment
                | environment,
            )
