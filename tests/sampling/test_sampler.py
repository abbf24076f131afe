"""Sampled texts: greedy equals the forward pass, draws are reproducible, stop strings end them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation.small_runs import LLAMA, make_run
from evaluation.test_evaluator import reference_model

from lossline.cli.sample_command import SampleOptions, sample
from lossline.errors import UserError
from lossline.evaluation.restoring import RunModel
from lossline.sampling import Drawing, Sampler
from lossline.sampling.drawing import draw, narrowed
from lossline.sampling.stops import Text
from lossline.sharding import MeshOptions, make_mesh, make_rules
from lossline.vocabularies import ByteVocabulary

BYTES = ByteVocabulary()
PROMPTS = [np.array([1, *(ord(c) + 3 for c in text)]) for text in ("abcabc", "x", "a longer one")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", LLAMA, steps=(2, 4))


@pytest.fixture(scope="module")
def sampler(run):
    mesh = make_mesh(MeshOptions())
    model = RunModel(run, activations="float32", mesh=mesh, rules=make_rules())
    ((_, state),) = model.states([4])
    return Sampler(model.graphdef, state, context=32, batch_size=4, mesh=mesh)


def test_greedy_takes_the_most_probable_token_of_the_forward_pass(sampler):
    made = sampler.continue_all(PROMPTS, BYTES, Drawing(temperature=0.0), tokens=6)
    rows = np.zeros((128, 32), np.int32)
    for row, (prompt, text) in enumerate(zip(PROMPTS, made, strict=True)):
        whole = [*prompt, *text.ids]
        rows[row, : len(whole)] = whole
    logits = np.asarray(reference_model("llama", 4)(rows))
    for row, (prompt, text) in enumerate(zip(PROMPTS, made, strict=True)):
        assert text.ids
        best = logits[row, len(prompt) - 1 : len(prompt) - 1 + len(text.ids)].argmax(-1)
        assert text.ids == tuple(best.tolist())


def test_draws_depend_on_the_seed_and_not_on_the_batch(sampler):
    def drawn(prompts, seed):
        return [
            text.ids
            for text in sampler.continue_all(
                prompts, BYTES, Drawing(temperature=1.0, top_k=50), tokens=6, seed=seed
            )
        ]

    first = drawn(PROMPTS, 3)
    assert drawn(PROMPTS, 3) == first
    assert drawn(PROMPTS[:1], 3) == first[:1]
    assert drawn(PROMPTS, 4) != first


def test_a_long_prompt_loses_its_beginning_and_too_many_tokens_are_refused(sampler):
    prompts, greedy = [np.full(40, 70), *PROMPTS[:2]], Drawing(temperature=0.0)
    assert sampler.continue_all(prompts, BYTES, greedy, tokens=16)[0].dropped == 40 - 16
    with pytest.raises(UserError, match="must be from 1 to 31"):
        sampler.continue_all(PROMPTS, BYTES, Drawing(), tokens=32)
    assert sampler.continue_all([], BYTES, Drawing(), tokens=4) == []


def test_top_k_and_top_p_keep_the_most_probable_tokens():
    logits = jnp.log(jnp.array([[0.1, 0.4, 0.2, 0.3]]))

    def kept(**options):
        return np.flatnonzero(np.isfinite(narrowed(logits, Drawing(**options))[0])).tolist()

    assert kept(top_k=2) == [1, 3]
    assert kept(top_p=0.5) == [1, 3]
    assert kept(top_p=0.01) == [1]
    assert kept(top_k=3, top_p=0.99) == [1, 2, 3]
    keys = jax.random.split(jax.random.key(0), 4000)
    tokens = np.asarray(draw(jnp.repeat(logits, 4000, axis=0), keys, Drawing(temperature=0.5)))
    expected = np.array([0.01, 0.16, 0.04, 0.09]) / 0.3
    assert np.bincount(tokens, minlength=4) / 4000 == pytest.approx(expected, abs=0.03)
    for wrong in ({"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}):
        with pytest.raises(UserError, match="must be"):
            Drawing(**wrong)


def test_stop_strings_end_a_text_wherever_tokens_cut_them():
    text = Text(BYTES, tokens=100, stop=["\n\n", "ende"])
    for token in BYTES.encode("am Ende é\nund\n\nmehr"):
        text.add(int(token))
    assert (text.text, text.ended) == ("am Ende é\nund", "stop")
    text = Text(BYTES, tokens=2, stop=[])
    for token in (100, BYTES.eos_id, 100):
        text.add(token)
    assert (text.ids, text.ended) == ([100], "end")


def test_the_verb_prints_and_writes_texts(run, tmp_path, capsys):
    options = {"run": str(run.path), "tokens": 6, "batch_size": 4, "temperature": 0.0}
    made = sample(SampleOptions(**options, prompts=("ab", "c", "d"), step=2))
    printed = capsys.readouterr().out
    assert printed.startswith("run, checkpoint 2\n") and "ab" + made[0].text in printed
    sample(
        SampleOptions(**options, prompts=("ab", "c"), samples=2, out=str(tmp_path / "texts.jsonl"))
    )
    assert len((tmp_path / "texts.jsonl").read_text().splitlines()) == 4
    with pytest.raises(UserError, match=r"texts.jsonl exists. Delete it, or give another file"):
        sample(SampleOptions(**options, out=str(tmp_path / "texts.jsonl")))
    with pytest.raises(UserError, match="has no checkpoint 7"):
        sample(SampleOptions(**options, step=7))
