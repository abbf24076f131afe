"""Trainings of a study in this process share their traced steps."""

from collections.abc import Iterator

import pytest
from shared_trainers import sharing

from lossline.training import make_trainer


@pytest.fixture(autouse=True, scope="session")
def shared_trainers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_trainer, "Trainer", sharing({}))
        yield
