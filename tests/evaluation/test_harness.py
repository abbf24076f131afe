"""The harness adapter: likelihoods by both conventions, greedy answers, generation, registration.

``test_harness_numbers.py`` compares with the harness itself.
"""

import dataclasses
import sys
import types

import numpy as np
import pytest

from lossline.cli.configuration import build_options
from lossline.cli.harness_command import HarnessOptions, harness_arguments
from lossline.errors import UserError
from lossline.evaluation import harness
from lossline.evaluation.harness import harness_model
from lossline.evaluation.requests import Convention, Conventions, RequestScorer
from lossline.harness import load, separated
from lossline.vocabularies import ByteVocabulary

from .small_runs import LLAMA, corrupt, make_run
from .test_evaluator import float64_nats, reference_model

OURS = Conventions(
    windows=Convention.LOSSLINE, pairs=Convention.LOSSLINE, beginning=Convention.LOSSLINE
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", LLAMA, steps=(2, 4))


def test_likelihoods_agree_with_the_definition(run):
    scorer = RequestScorer(run, ByteVocabulary(), step=2, batch_size=8, conventions=OURS)
    pairs = [("The sky is", " blue"), ("", "no context"), ("context", "")]
    answers = scorer.loglikelihood(pairs)
    for (context, answer), (got, _) in zip(pairs, answers, strict=True):
        expected = -float64_nats(LLAMA, 2, context + answer, scored_from=len(context))
        assert got == pytest.approx(expected, rel=2e-6)
    texts = ["short", "a long text, " * 5, ""]
    expected = [-float64_nats(LLAMA, 2, text) for text in texts]
    assert scorer.loglikelihood_rolling(texts) == pytest.approx(expected, rel=2e-6)


def log_probabilities(rows):
    """Return ln p of every next token after rows of token ids, by an unpacked forward pass."""
    whole = np.zeros((128, 32), np.int32)
    for index, row in enumerate(rows):
        whole[index, : len(row)] = row
    logits = np.asarray(reference_model("llama", 2)(whole), np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_the_harness_has_its_own_windows_spaces_and_beginnings(run):
    scorer = RequestScorer(run, ByteVocabulary(), step=2, batch_size=8)

    def ids(text):
        return [byte + 3 for byte in text.encode()]

    # Nothing stands before a context; an empty one is the end-of-document token; a long one is cut.
    pairs = [("ab", "cd"), ("", "cd"), ("x" * 40, "cd"), ("ab  ", "c")]
    inputs = [ids("abc"), [1, *ids("c")], [*ids("x" * 31), *ids("c")], ids("ab  ")]
    counts = [2, 2, 2, 3]  # the two spaces belong to the answer
    targets = [ids("cd"), ids("cd"), ids("cd"), ids("  c")]
    log_p = log_probabilities(inputs)
    expected = [
        sum(log_p[row, len(inputs[row]) - n + i, targets[row][i]] for i in range(n))
        for row, n in enumerate(counts)
    ]
    got = [value for value, _ in scorer.loglikelihood(pairs)]
    assert got == pytest.approx(expected, rel=2e-6)
    # Two windows of 32 side by side, the last one moved back to the full context.
    text = ids("The quick brown fox jumps over the lazy dog.")
    log_p = log_probabilities([[1, *text[:31]], text[-33:-1]])
    expected = sum(log_p[0, i, text[i]] for i in range(32))
    expected += sum(log_p[1, 64 - len(text) + i, text[32 + i]] for i in range(len(text) - 32))
    (got,) = scorer.loglikelihood_rolling(["The quick brown fox jumps over the lazy dog."])
    assert got == pytest.approx(expected, rel=2e-6)
    assert scorer.loglikelihood([]) == scorer.loglikelihood_rolling([]) == []
    assert scorer.generate_until([]) == []


def test_generation_is_greedy_and_ends_at_its_stop_strings(run):
    scorer = RequestScorer(run, ByteVocabulary(), step=2, batch_size=2)
    (text,) = scorer.generate_until([("ab", {"until": [], "max_gen_toks": 6})])
    stop = next(letter for letter in text if letter != "\ufffd")
    answers = scorer.generate_until(
        [
            ("ab", {"until": [stop], "max_gen_toks": 6, "do_sample": False}),
            ("ab", {"until": [], "max_new_tokens": 6, "temperature": 0.0}),
        ]
    )
    assert answers == [text.split(stop)[0], text]
    with pytest.raises(UserError, match="must be from 1 to 31"):
        scorer.generate_until([("ab", {})])


def test_greedy_answers_are_recognized(run):
    contexts = [chr(code) for code in range(97, 123)]
    rows = np.zeros((128, 32), np.int32)
    rows[:26, :2] = [[1, ord(c) + 3] for c in contexts]
    best = np.argmax(np.asarray(reference_model("llama", 4)(rows))[:26, 1], -1) - 3
    context, said = next((c, chr(b)) for c, b in zip(contexts, best, strict=True) if 0 <= b < 128)
    scorer = RequestScorer(run, ByteVocabulary(), batch_size=8, conventions=OURS)
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

        def __init__(self):
            self.cache_hook = types.SimpleNamespace(add_partial=lambda *_: None)

    modules = ("models", "api", "api.model", "api.registry")
    names = ("lm_eval", *(f"lm_eval.{name}" for name in modules))
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    registered = {}
    sys.modules["lm_eval.api.model"].LM = LM
    sys.modules["lm_eval.api.registry"].register_model = lambda name: (
        lambda made: registered.setdefault(name, made)
    )
    monkeypatch.setattr(harness, "_registered", None)
    model = harness_model(run.path, batch_size=8, windows="lossline")  # its vocabulary is found
    assert isinstance(model, LM) and registered == {"lossline": type(model)}
    request = types.SimpleNamespace(args=("ab", "c"))
    ((value, is_greedy),) = model.loglikelihood([request])
    assert value < 0 and isinstance(is_greedy, bool)
    whole = model.loglikelihood_rolling([types.SimpleNamespace(args=("abc",))])
    assert whole[0] < value
    asked = types.SimpleNamespace(args=("ab", {"until": [], "max_gen_toks": 3}))
    assert len(model.generate_until([asked])) == 1
    info = model.get_model_info()
    assert (info["run"], info["checkpoint"], info["windows"]) == ("run", 4, "lossline")
    with pytest.raises(UserError, match="must be 'harness' or 'lossline'"):
        harness_model(run.path, pairs="other")
    with pytest.raises(UserError, match="has no argument steps"):
        harness_model(run.path, steps=2)
    with pytest.raises(UserError, match="batch_size = 0"):
        harness_model(run.path, batch_size=0)


def test_the_command_hands_further_arguments_to_the_harness():
    words = [
        "--run=runs/a",
        "--tasks",
        "x",
        "--step",
        "4",
        "--model_args",
        "max_length=8",
        "-n",
        "5",
    ]
    own, theirs = separated(words)
    assert own == ["--run=runs/a", "--step", "4"]
    bindings = ["harness.run = 'runs/a'", "harness.step = 4", "harness.windows = 'lossline'"]
    options = build_options("harness", load(theirs), bindings=bindings)
    assert options == HarnessOptions(run="runs/a", step=4, windows=Convention.LOSSLINE)
    made = harness_arguments(dataclasses.replace(options, vocabulary="v.json"), theirs)
    assert made == [
        "--model", "lossline", "--model_args",
        "path=runs/a,step=4,vocabulary=v.json,windows=lossline,pairs=harness,beginning=harness,"
        "activations=float32,max_length=8",
        "--batch_size", "auto", "--tasks", "x", "-n", "5",
    ]  # fmt: skip
    with pytest.raises(UserError, match="is lossline here"):
        harness_arguments(options, ["--model", "hf"])
