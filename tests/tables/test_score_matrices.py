"""Guarantees of the importer of score matrices, on planted matrices and the published ones."""

import os

import numpy as np
import pandas as pd
import pytest

from lossline.cli.import_command import ImportOptions, import_to_file
from lossline.errors import UserError
from lossline.tables import scores
from lossline.tables.sweeps import Sweep, import_sweep

BPB = """id,"('pythia', 'EAI/pythia-70m')","('pythia', 'EAI/pythia-160m')",org/tiny,own
law,1.5,1.25,1.75,2.0
" a title, with a comma",1.0,0.75,,1.5
"""
ERROR = """benchmark,org/tiny,"('pythia', 'EAI/pythia-160m')","('pythia', 'EAI/pythia-70m')",own
piqa,0.5,0.25,0.375,0.5
lambada_openai,900.5,20.0,140.0,
"""
SOURCE = Sweep.PERPLEXITY_CORRELATIONS


def written(folder, bpb=BPB, error=ERROR):
    (folder / "bpb.csv").write_text(bpb)
    (folder / "error.csv").write_text(error)
    return [str(folder / "bpb.csv"), str(folder / "error.csv")]


def test_both_matrices_become_one_table_whatever_the_order_of_their_columns(tmp_path):
    imported = import_sweep(SOURCE, written(tmp_path))
    table = imported.table.set_index(["model", "name"])
    assert len(table) == 7 + 7
    assert table.loc[("EAI/pythia-70m", "law"), "value"] == 1.5
    assert table.loc[("EAI/pythia-70m", "piqa"), "value"] == 0.375
    assert table.loc[("org/tiny", "lambada_openai"), "value"] == 900.5
    assert ("org/tiny", " a title, with a comma") not in table.index
    families = imported.table.drop_duplicates("model").set_index("model")["family"]
    assert dict(families) == {
        "EAI/pythia-70m": "pythia", "EAI/pythia-160m": "pythia",
        "org/tiny": "org", "own": "own",
    }  # fmt: skip
    measures = imported.table.drop_duplicates("name").set_index("name")["measure"]
    assert dict(measures) == {
        "law": "bits_per_byte", " a title, with a comma": "bits_per_byte",
        "piqa": "error", "lambada_openai": "perplexity",
    }  # fmt: skip
    assert imported.table[[*scores.SUMS, "step"]].isna().all(axis=None)
    assert imported.notes == (
        "bpb.csv: 1 of 8 cells are empty; they make no row",
        "error.csv: 1 of 8 cells are empty; they make no row",
        "benchmark 'lambada_openai' has no value for own; estimates for it leave these models out",
    )


def test_the_command_writes_once_and_keeps_another_table(tmp_path, capsys):
    options = ImportOptions(
        source=SOURCE, path=tuple(written(tmp_path)), out=str(tmp_path / "s.parquet")
    )
    out = import_to_file(options)
    assert "4 models, 2 domains, 2 benchmarks" in capsys.readouterr().out
    assert scores.read(out).equals(import_sweep(SOURCE, options.path).table)
    import_to_file(options)
    assert "is up to date" in capsys.readouterr().out
    written(tmp_path, bpb=BPB.replace("1.25", "1.125"))
    with pytest.raises(UserError, match="already exists with different contents"):
        import_to_file(options)


def test_a_model_in_two_families_is_two_models_and_said_to_be(tmp_path):
    head, *rows = ERROR.strip().split("\n")
    error = "\n".join([head + ",\"('copy', 'org/tiny')\"", *(row + ",0.5" for row in rows)])
    error = error.replace("lambada_openai", "sciq").replace("900.5,20.0,140.0", "0.9,0.2,0.1")
    imported = import_sweep(SOURCE, written(tmp_path, error=error))
    models = set(imported.table["model"])
    assert {"org/tiny (org)", "org/tiny (copy)"} <= models and "org/tiny" not in models
    assert any("'org/tiny' has columns in 2 families (org, copy)" in n for n in imported.notes)
    assert any("no domain is scored for org/tiny (copy)" in note for note in imported.notes)


def test_a_column_states_the_measures(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("benchmark,measure,a,b\nlambada,error,0.5,0.25\nsum,accuracy,0.5,1\nx,,0,1\n")
    table = import_sweep(SOURCE, path).table
    assert table["measure"].tolist() == ["error"] * 2 + ["accuracy"] * 2 + ["error"] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("bpb", " a title, with a comma", "law"), r"column 'id', row 2: 'law' is already in r"),
        (("bpb", "1.25", "low"), r"160m'\)\", row 1: 'low' is not a number"),
        (("bpb", "1.25", "-1"), r"160m'\)\", row 1: value: -1 is negative"),
        (("bpb", "1.25", "inf"), r"row 1: value: the value is infinite"),
        (("bpb", "id,", "name,"), r"bpb.csv: the first column is 'name'. Name it 'id'"),
        (("bpb", "law,", ","), r"bpb.csv: column 'id', row 1: no name"),
        (("error", "0.25", "25"), r"error.csv: column .*row 1: value: 25 is above 1"),
        (("error", "20.0", "0.5"), r"row 2: value: 0.5 is below 1, which no perplexity is"),
    ],
)  # fmt: skip
def test_each_fault_is_one_line_with_its_place(tmp_path, change, message):
    which, old, new = change
    texts = {"bpb": BPB, "error": ERROR}
    texts[which] = texts[which].replace(old, new, 1)
    with pytest.raises(UserError, match=message) as caught:
        import_sweep(SOURCE, written(tmp_path, **texts))
    assert "\n" not in str(caught.value)


def test_two_columns_of_one_model_are_refused(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("id,\"('a', 'a/m')\",a/m\nx,1,2\n")
    with pytest.raises(UserError, match="are the same model; keep one"):
        import_sweep(SOURCE, path)


@pytest.mark.skipif("LOSSLINE_PUBLISHED_DATA" not in os.environ, reason="published data not given")
def test_the_published_matrices_are_imported_whole():
    folder = os.environ["LOSSLINE_PUBLISHED_DATA"]
    paths = [f"{folder}/perplexity_correlations_{name}.csv" for name in ("bpb", "error")]
    imported = import_sweep(SOURCE, paths)
    table = imported.table
    assert table.groupby("kind")["name"].nunique().to_dict() == {"domain": 263, "benchmark": 9}
    assert table["model"].nunique() == 90 and len(table) == 90 * (263 + 9)
    wide = table.pivot(index="name", columns="model", values="value")
    source = pd.read_csv(paths[0], index_col=0)
    column = "('statespaces', 'state-spaces/mamba-130m-hf')"
    np.testing.assert_array_equal(
        wide.loc[source.index, "state-spaces/mamba-130m-hf"], source[column]
    )
    assert table.loc[table["measure"] == "perplexity", "name"].nunique() == 6
    assert len(imported.notes) == 1 and "LLM360/Amber" in imported.notes[0]
