"""Token scores: what a reference model says about every token of a token store.

One float16 per token and quantity, at the token's position in the store's flat array. The windows
are those of training (``lossline.batches.plans.Windows``): a token is scored at the place of the
window where training predicts it. The last ``num_tokens % context_length`` tokens of the store are
in no window; their scores are NaN.

``python -m lossline.score --tokens`` writes such a folder (``lossline.scoring.token_scoring``): an
array per quantity and, last, ``manifest.json``.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lossline.errors import UserError
from lossline.places import in_bucket, to_path
from lossline.stores import arrays
from lossline.stores.arrays import ArrayFacts
from lossline.stores.sealed_json import FILE_NAME, SealedJson, sha256
from lossline.stores.token_store import TokenStore

DTYPE = "float16"
_BLOCK = 1 << 20  # tokens that ``whole`` reads at once
_VERIFIED = 1 << 24  # contents up to this number of tokens are compared with their hash at opening
_REMEDY = "Delete the folder and run python -m lossline.score --tokens again."
_MANIFEST = SealedJson(
    what="folder of token scores",
    version=1,
    make="Run python -m lossline.score --tokens or give another path.",
    remedy=_REMEDY,
)


class ReferenceScore(enum.StrEnum):
    """What is stored for a token.

    NATS is -ln p(token | the tokens before it in its window) under the reference. ENTROPY is
    -Σ p ln p of the reference's distribution of this token, in nats (arXiv:2404.07965, equation 8).
    """

    NATS = "nats"
    ENTROPY = "entropy"


@dataclass(frozen=True, kw_only=True)
class ScoreSource:
    """What determines the scores, before anything is computed.

    Attributes:
        store_fingerprint: fingerprint of the token store.
        vocabulary_hash: hash of its vocabulary, which is also the reference's.
        tokens: number of tokens of the store.
        run_id: name of the reference's run.
        step: step of its checkpoint.
        parameters: ``lossline.runs.checkpoints.parameters_fingerprint`` of that checkpoint.
        context_length: L, targets per window.
        documents: "joined" or "separate", as ``lossline.training.options.Documents``.
        quantities: values of ``ReferenceScore``, in the order of that class.
        activations: type that the reference computed in.
    """

    store_fingerprint: str
    vocabulary_hash: str
    tokens: int
    run_id: str
    step: int
    parameters: str
    context_length: int
    documents: str
    quantities: tuple[str, ...]
    activations: str

    @property
    def reference(self) -> str:
        """Run and step of the reference, in words."""
        return f"{self.run_id} step {self.step}"

    @property
    def scored_tokens(self) -> int:
        """Number of tokens with a score: those in whole windows."""
        return self.tokens // self.context_length * self.context_length

    def key(self) -> str:
        """Return the SHA-256 (hex) of all that determines the scores, names left out."""
        return sha256({k: v for k, v in asdict(self).items() if k not in ("run_id", "step")})


@dataclass(frozen=True, kw_only=True)
class ScoreManifest:
    """Description of a folder of token scores.

    Attributes:
        source: what determines the scores.
        store: folder or URL of the store at the time of scoring; only for people.
        reference_flops: FLOPs spent to train the reference up to its step, without those before
            ``train.start``; None if unknown.
        scoring_flops: FLOPs of the scoring.
        means: mean of each quantity over the scored tokens, summed in float64.
        arrays: facts about the array of each quantity.
        reference_start: fingerprint of the parameters that the reference started from; None: fresh.
        reference_start_flops: FLOPs before ``train.start``; None if unknown.
    """

    source: ScoreSource
    store: str
    reference_flops: float | None
    scoring_flops: float
    means: Mapping[str, float]
    arrays: Mapping[str, ArrayFacts]
    reference_start: str | None = None
    reference_start_flops: float | None = None

    def training_flops(self, start: str | None) -> float | None:
        """Return the FLOPs of the reference's training for a run; None if unknown.

        Args:
            start: fingerprint of the parameters that the run starts from. If the reference started
                from them too, what they cost is the run's own and is not counted.
        """
        if self.reference_start in (None, start) or self.reference_flops is None:
            return self.reference_flops
        before = self.reference_start_flops
        return None if before is None else before + self.reference_flops

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what determines the scores and of the scores themselves."""
        hashes = {name: self.arrays[name].sha256 for name in self.source.quantities}
        return sha256({"source": self.source.key(), "arrays": hashes})


def write_manifest(folder: Path, manifest: ScoreManifest) -> None:
    """Write the manifest; this completes the folder."""
    _MANIFEST.write(folder, {**asdict(manifest), "fingerprint": manifest.fingerprint})


class TokenScores:
    """The scores of every token of one token store under one reference, read-only.

    Args:
        location: folder or URL.
        manifest: checked manifest.

    Attributes:
        location: as above.
        manifest: as above.
        fingerprint: SHA-256 (hex) of everything that determines the values, and of the values.
        reference: "<run_id> step <step>" of the reference.
        parameters: fingerprint of the reference's parameters.
        context_length: targets per window.
        documents: "joined" or "separate".
        quantities: what is stored: "nats", "entropy" or both.
        vocabulary_hash: hash of the vocabulary of the store and of the reference.
        store_fingerprint: fingerprint of the token store.
        reference_flops: FLOPs spent to train the reference, without its start; None if unknown.
        scoring_flops: FLOPs of the scoring.
    """

    def __init__(self, location: str, manifest: ScoreManifest) -> None:
        source = manifest.source
        self.location = location
        self.manifest = manifest
        self.fingerprint = manifest.fingerprint
        self.reference = source.reference
        self.parameters = source.parameters
        self.context_length = source.context_length
        self.documents = source.documents
        self.quantities = source.quantities
        self.vocabulary_hash = source.vocabulary_hash
        self.store_fingerprint = source.store_fingerprint
        self.reference_flops = manifest.reference_flops
        self.scoring_flops = manifest.scoring_flops
        self._arrays = {
            name: arrays.open_array(
                f"{location.rstrip('/')}/{name}", manifest.arrays[name], remedy=_REMEDY
            )
            for name in self.quantities
        }

    @classmethod
    def open(cls, location: str | Path, *, verify: bool = False) -> TokenScores:
        """Open a folder of token scores.

        The checks always cover the hash of the manifest, the size of every local file, and the type
        and size of every array; for small stores also the hash of the contents. In a large array,
        each chunk has a checksum that is compared when the chunk is read.

        Args:
            location: folder, or URL such as ``gs://…``.
            verify: compare the hash of the contents of every array, whatever its size.

        Raises:
            NoStore: ``location`` contains no token scores, or unfinished ones.
            UserError: the scores are cut short, damaged or changed.
        """
        location = str(location)
        manifest = _read_manifest(location)
        if "://" not in location or in_bucket(location):
            for name in manifest.source.quantities:
                arrays.check_files(to_path(location) / name, manifest.arrays[name], remedy=_REMEDY)
        scores = cls(location, manifest)
        if verify or manifest.source.tokens <= _VERIFIED:
            scores.verify()
        return scores

    def verify(self) -> None:
        """Read all scores and compare their hashes with the manifest.

        Raises:
            UserError: an array is damaged or was changed.
        """
        for name, array in self._arrays.items():
            found = arrays.content_sha256(array, remedy=_REMEDY)
            if found != self.manifest.arrays[name].sha256:
                raise UserError(f"{self.location}/{name}: contents were changed. {_REMEDY}")

    def require(
        self, store: TokenStore, *, context_length: int, documents: str, quantities: Sequence[str]
    ) -> None:
        """Check that these are scores of a store's windows.

        Args:
            store: the token store to train on.
            context_length: L, targets per window.
            documents: "joined" or "separate".
            quantities: quantities that must be stored.

        Raises:
            UserError: one of them differs, or a quantity was not stored.
        """
        for what, ours, theirs, shown in (
            (
                "vocabulary", store.manifest.vocabulary.hash, self.vocabulary_hash,
                (store.manifest.vocabulary.hash[:12], self.vocabulary_hash[:12]),
            ),
            (
                "store", store.manifest.fingerprint, self.store_fingerprint,
                (store.location, f"the store with fingerprint {self.store_fingerprint[:12]}"),
            ),
            (
                "context length", context_length, self.context_length,
                (context_length, self.context_length),
            ),
            ("document rule", documents, self.documents, (documents, self.documents)),
        ):  # fmt: skip
            if ours != theirs:
                raise UserError(
                    f"{self.location}: token scores of another {what}: {shown[1]}, but training "
                    f"uses {shown[0]}. Run python -m lossline.score --tokens for this {what}."
                )
        if missing := [name for name in quantities if name not in self.quantities]:
            raise UserError(
                f"{self.location}: contains {' and '.join(self.quantities)} of the reference, but "
                f"{' and '.join(missing)} is needed. Run python -m lossline.score --tokens with "
                f"token_scores.quantities = {tuple(dict.fromkeys([*self.quantities, *missing]))}."
            )

    def read(self, quantity: str, starts: np.ndarray, length: int) -> np.ndarray:
        """Return the scores of ``length`` tokens from each start, read concurrently.

        Args:
            quantity: one of ``quantities``.
            starts: int64 [R]: position in the store of the first token of each row.
            length: tokens per row.

        Returns:
            float32 [R, length]; NaN where a token has no score.

        Raises:
            UserError: the scores are damaged.
        """
        return arrays.read_rows(
            self._arrays[quantity], starts, length, dtype=np.float32, remedy=_REMEDY
        )

    def whole(self, quantity: str) -> Iterator[tuple[int, np.ndarray]]:
        """Yield all scores in order: the position of a block's first token, and its float16 scores.

        Every block but the last has a multiple of 8 tokens, so that bits of blocks can be joined.

        Raises:
            UserError: the scores are damaged.
        """
        for start in range(0, self.manifest.source.tokens, _BLOCK):
            stop = min(start + _BLOCK, self.manifest.source.tokens)
            yield start, arrays.read(self._arrays[quantity], start, stop, remedy=_REMEDY)


def _read_manifest(location: str) -> ScoreManifest:
    """Return the checked manifest of a folder of token scores."""
    body = _MANIFEST.read(location)
    try:
        claimed, source = body.pop("fingerprint"), dict(body.pop("source"))
        facts = {name: ArrayFacts(**value) for name, value in body.pop("arrays").items()}
        source["quantities"] = tuple(source["quantities"])
        manifest = ScoreManifest(**body, source=ScoreSource(**source), arrays=facts)
        matches = claimed == manifest.fingerprint and all(
            (facts[name].dtype, facts[name].size) == (DTYPE, manifest.source.tokens)
            for name in manifest.source.quantities
        )
    except (KeyError, TypeError, AttributeError) as error:  # the manifest of something else
        raise UserError(
            f"{location}/{FILE_NAME}: not the manifest of a {_MANIFEST.what}. Give a folder that "
            "python -m lossline.score --tokens has written."
        ) from error
    if not matches:
        raise UserError(f"{location}/{FILE_NAME}: does not match its arrays. {_REMEDY}")
    return manifest
