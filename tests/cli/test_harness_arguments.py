"""The verb ``harness`` takes its own arguments and leaves the rest to lm_eval."""

import pytest

from lossline.harness import main, separated


def test_options_of_this_verb_are_taken_out():
    line = "--run=r --tasks arc_easy --limit 5 --gin_search_paths=a,b"
    own, theirs = separated([*line.split(), "--gin_bindings", "harness.step = 3"])
    assert theirs == ["--tasks", "arc_easy", "--limit", "5"]
    assert own == ["--run=r", "--gin_search_paths=a,b", "--gin_bindings", "harness.step = 3"]


@pytest.mark.parametrize(
    "binding", [[], ["--gin.harness.step=3"], ["--gin_bindings=harness.step = 3"]]
)
def test_a_run_that_is_not_there_is_one_line(tmp_path, capsys, binding):
    with pytest.raises(SystemExit) as stop:
        main([f"--run={tmp_path}/nothing", *binding, "--tasks", "arc_easy"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("lossline harness: error: ") and said.count("\n") == 1
