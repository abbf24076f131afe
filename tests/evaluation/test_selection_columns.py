"""How pages were selected, from the manifest of a store to the columns of the loss table."""

from types import SimpleNamespace

from lossline.batches.mixture import Mixture
from lossline.evaluation.measured_runs import run_columns
from lossline.stores.store_writer import write_store
from lossline.training.text import TrainingText
from lossline.vocabularies import ByteVocabulary

DSIR = {"method": "dsir", "target": "code"}


def test_the_selection_of_a_store_reaches_the_loss_table(tmp_path, texts):
    for name, selection in (("chosen", DSIR), ("any", DSIR | {"target": ""}), ("plain", None)):
        write_store(tmp_path / name, texts, ByteVocabulary(), name=name, selection=selection)

    def column(source):
        facts = {"run_id": "r"} | TrainingText.open(source).facts(100)
        return run_columns(SimpleNamespace(facts=facts, config={}))["data_selection"]

    assert column(str(tmp_path / "chosen")) == "dsir for code"
    assert column(str(tmp_path / "any")) == "dsir"
    assert column(str(tmp_path / "plain")) is None
    both = {name: str(tmp_path / name) for name in ("chosen", "plain")}
    assert column(Mixture(components=both, shares={"chosen": 0.5, "plain": 0.5})) == (
        "chosen: dsir for code"
    )
