"""Run units of work on this machine or on a standing Dask cluster."""

from lossline.cluster.connecting import connect
from lossline.cluster.engine import Engine, worker_name

__all__ = ["Engine", "connect", "worker_name"]
