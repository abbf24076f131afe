"""Options of following tokens over checkpoints."""

from __future__ import annotations

import dataclasses

from lossline.errors import UserError
from lossline.evaluation.options import DeviceOptions
from lossline.options.identity import not_identity
from lossline.sharding import MeshOptions
from lossline.token_dynamics.options import AnalysisOptions
from lossline.token_dynamics.trends import FEWEST_CHECKPOINTS
from lossline.training.options import Documents
from lossline.vocabularies import Bytes, HuggingFace, SentencePiece, Tiktoken


@dataclasses.dataclass(frozen=True, kw_only=True)
class FollowOptions(AnalysisOptions, DeviceOptions):
    """Options of the measuring: those of ``AnalysisOptions`` and ``DeviceOptions``, and these.

    Attributes:
        runs: run directories, or folders of run directories, of one vocabulary.
        store: validation token store. ``{tokenizer}`` and other columns of the facts of the runs
            are replaced by their values.
        tokens: tokens of the sample, rounded up to whole windows; at most those of the store.
            Default: as many as in the paper.
        steps: checkpoints to follow, at least 5. Empty: all kept checkpoints of each run.
        context_length: tokens of a window. None: that of the training of the runs.
        documents: whether documents of a window attend to each other, as in ``train.documents``.
            None: as in the training of the runs.
        reference: run directory of the model that excess loss is measured against. "": none.
        reference_step: its checkpoint. None: its last kept one.
        vocabulary: tokenizer of the runs, for the text of the tokens; as in ``store.vocabulary`` of
            ``prepare``. Not needed for bytes; without it there is no text.
        data_root: data root of ``prepare``, where a vocabulary is looked up by name.
        text_windows: windows to show as text.
    """

    runs: tuple[str, ...] = not_identity()
    store: str = not_identity()
    tokens: int = 320_000
    steps: tuple[int, ...] = ()
    context_length: int | None = None
    documents: Documents | None = None
    reference: str = not_identity("")
    reference_step: int | None = None
    vocabulary: str | Bytes | SentencePiece | HuggingFace | Tiktoken = ""
    data_root: str = not_identity("data")
    text_windows: int = 4
    # Devices change results only in the last rounding.
    batch_size: int = not_identity(16)
    mesh: MeshOptions = dataclasses.field(default_factory=MeshOptions, metadata={"identity": False})
    compilation_cache: str | None = not_identity(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tokens", "text_windows", "context_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"dynamics.{name} = {value}: must be at least 1.")
        if self.steps and len(set(self.steps)) < FEWEST_CHECKPOINTS:
            raise UserError(
                f"dynamics.steps names {len(set(self.steps))} checkpoints: a slope needs at least "
                f"{FEWEST_CHECKPOINTS}. Name more, or none for all kept checkpoints."
            )
        if self.reference_step is not None and not self.reference:
            raise UserError(
                "dynamics.reference_step is given without dynamics.reference. Name the run "
                "directory of the reference too."
            )
