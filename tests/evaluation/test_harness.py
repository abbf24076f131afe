"""The harness adapter returns the evaluator's likelihoods and recognizes greedy answers."""

import sys
import types

import numpy as np
import pytest

from lossline.errors import UserError
from lossline.evaluation.harness import RequestScorer, harness_model
from lossline.vocabularies import ByteVocabulary

from .small_runs import LLAMA, corrupt, make_run
from .test_evaluator import float64_nats, reference_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", LLAMA, steps=(2, 4))


def test_likelihoods_agree_with_the_definition(run):
    scorer = RequestScorer(run, ByteVocabulary(), step=2, batch_size=8)
    pairs = [("The sky is", " blue"), ("", "no context"), ("context", "")]
    answers = scorer.loglikelihood(pairs)
    for (context, answer), (got, _) in zip(pairs, answers, strict=True):
        expected = -float64_nats(LLAMA, 2, context + answer, scored_from=len(context))
        assert got == pytest.approx(expected, rel=2e-6)
    texts = ["short", "a long text, " * 5, ""]
    expected = [-float64_nats(LLAMA, 2, text) for text in texts]
    assert scorer.loglikelihood_rolling(texts) == pytest.approx(expected, rel=2e-6)


def test_greedy_answers_are_recognized(run):
    contexts = [chr(code) for code in range(97, 123)]
    rows = np.zeros((128, 32), np.int32)
    rows[:26, :2] = [[1, ord(c) + 3] for c in contexts]
    best = np.argmax(np.asarray(reference_model("llama", 4)(rows))[:26, 1], -1) - 3
    context, said = next((c, chr(b)) for c, b in zip(contexts, best, strict=True) if 0 <= b < 128)
    scorer = RequestScorer(run, ByteVocabulary(), batch_size=8)
    letters = [chr(code) for code in range(128)]
    answers = scorer.loglikelihood([(context, letter) for letter in letters])
    assert [c for c, (_, greedy) in zip(letters, answers, strict=True) if greedy] == [said]


def test_user_errors_are_raised(run, tmp_path, monkeypatch):
    class Other(ByteVocabulary):
        @property
        def hash(self):
            return "0" * 64

    with pytest.raises(UserError, match="was trained with vocabulary bytes"):
        RequestScorer(run, Other())
    with pytest.raises(UserError, match="has no checkpoint 7"):
        RequestScorer(run, ByteVocabulary(), step=7)
    broken = make_run(tmp_path / "broken", LLAMA, steps=(2,))
    corrupt(broken, 2)
    with pytest.raises(UserError, match="corrupt"):
        RequestScorer(broken, ByteVocabulary())
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"install the \[harness\] extra"):
        harness_model(run.path, vocabulary="bytes")


def test_harness_model_answers_requests(run, monkeypatch):
    class LM:
        """Replaces lm_eval.api.model.LM, an optional dependency."""

    names = ("lm_eval", "lm_eval.api", "lm_eval.api.model")
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["lm_eval.api.model"].LM = LM
    model = harness_model(run.path, vocabulary="bytes", batch_size=8)
    assert isinstance(model, LM)
    request = types.SimpleNamespace(args=("ab", "c"))
    ((value, is_greedy),) = model.loglikelihood([request])
    assert value < 0 and isinstance(is_greedy, bool)
    whole = model.loglikelihood_rolling([types.SimpleNamespace(args=("abc",))])
    assert whole[0] < value
    with pytest.raises(UserError, match="generated text"):
        model.generate_until([request])
