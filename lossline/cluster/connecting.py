"""Choose the engine that an option ``<verb>.cluster`` names."""

from __future__ import annotations

import os
import re

from lossline.cluster.engine import Engine
from lossline.cluster.local import LocalEngine
from lossline.errors import UserError
from lossline.terminal import Say, silent

LOCAL = "local"
_SCHEDULER = re.compile(r"(tcp|tls)://([^\s/:]+|\[[^\s/]+\]):\d{1,5}")


def check(cluster: str) -> None:
    """Check the value of an option ``<verb>.cluster`` without connecting.

    Raises:
        UserError: it is neither "local" nor the address of a scheduler.
    """
    if cluster != LOCAL and not _SCHEDULER.fullmatch(cluster):
        raise UserError(
            f"cluster = {cluster!r}: give 'local', or the address of a Dask scheduler such as "
            "tcp://10.0.0.1:8786."
        )


def connect(cluster: str = LOCAL, *, processes: int = 0, say: Say = silent) -> Engine:
    """Return the engine of a cluster; use it as a context manager.

    Args:
        cluster: "local" (processes of this machine), or the address of a Dask scheduler that
            stands: "tcp://host:port" or "tls://host:port".
        processes: processes of this machine for "local"; 0: one per core. A Dask cluster has its
            own workers.
        say: receives what the connection waits for.

    Raises:
        UserError: ``cluster`` is malformed, the package is missing, the scheduler does not answer
            or has no workers, or a worker has other code.
    """
    check(cluster)
    if cluster == LOCAL:
        return LocalEngine(processes or os.cpu_count() or 1)
    from lossline.cluster.dask_engine import DaskEngine

    return DaskEngine(cluster, say=say)
