"""A job of Python code instead of a verb. A job's own process imports this file, so it is light."""

import sys

from lossline.studies.processes import Job


class Code(Job):
    """Runs its only argument as Python code."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", self.arguments[0]]
