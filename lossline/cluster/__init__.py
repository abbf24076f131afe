"""Run units of work on this machine or on a standing Dask cluster."""

from lossline.cluster.connecting import connect
from lossline.cluster.engine import Engine, WorkLost, worker_name

__all__ = ["Engine", "WorkLost", "connect", "worker_name"]
