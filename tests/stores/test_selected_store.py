"""A store of selected pages, and the facts of a run on it, say how they were chosen."""

from pathlib import Path

import planted_pool

from lossline.choices.choosing import choose
from lossline.choices.files import save_choices
from lossline.choices.options import ChooseOptions
from lossline.choices.targets import Target
from lossline.corpora.pools import Pool
from lossline.corpora.selected import selections
from lossline.pages.methods import Dsir, Uniform
from lossline.stores.prepare_all import PrepareOptions, StoreJob, prepare
from lossline.stores.token_store import TokenStore
from lossline.training.text import TrainingText
from lossline.vocabularies import Bytes


def test_a_store_of_a_selection_says_how_its_pages_were_chosen(tmp_path: Path) -> None:
    planted_pool.write_pool(tmp_path / "data")
    pool = Pool(root=str(tmp_path / "data"), domains=tuple(planted_pool.WORDS))
    target = Target(name="quiz", texts=("quiz",))
    options = ChooseOptions(
        pool=pool,
        targets=(target,),
        methods={"uniform": Uniform(), "dsir": Dsir()},
        budget=5000,
    )
    out = tmp_path / "selections"
    out.mkdir()
    chosen = choose(options, Bytes(), pool_fingerprint=pool.fingerprint())
    save_choices(chosen, options, out, {})
    sets = selections(folder=str(out), targets=("quiz",), methods=("dsir",), shared=("uniform",))
    job = StoreJob(vocabulary="bytes", sets=sets, splits=("train",))
    prepare(PrepareOptions(root=str(tmp_path / "data"), stores=(job,), processes=1))
    store = TokenStore.open(tmp_path / "data/stores/bytes/quiz-dsir/train")
    by_hand = next(choice for choice in chosen.choices if choice.method == "dsir")
    assert store.num_tokens == by_hand.cut.tokens
    assert store.num_documents == len(by_hand.cut.order)
    made = store.manifest.selection
    assert (made["method"], made["target"], made["budget"]) == ("dsir", "quiz", 5000)
    assert made["pool"]["fingerprint"] == pool.fingerprint()
    text = TrainingText.open(str(tmp_path / "data/stores/bytes/quiz-dsir/train"))
    facts = text.facts(1000)
    assert facts["pretraining_data"] == "quiz-dsir" and facts["data_selection"] == "dsir for quiz"
    shared = TrainingText.open(str(tmp_path / "data/stores/bytes/any-uniform/train"))
    assert shared.facts(1000)["data_selection"] == "uniform"
