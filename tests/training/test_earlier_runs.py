"""Runs made by an earlier version of lossline are found again under their old names."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest

from lossline.errors import UserError
from lossline.options.identity import identity
from lossline.runs.earlier_runs import find_run
from lossline.runs.run_directory import RunDirectory
from lossline.training.loop import train


@pytest.fixture(scope="module")
def finished(base_options, tmp_path_factory):
    return train(replace(base_options, steps=3, root=str(tmp_path_factory.mktemp("made"))))


@pytest.fixture
def earlier(finished, base_options, tmp_path):
    """A run directory as written before identities contained fingerprints.

    Its name was the SHA-256 of this JSON.
    """
    config = json.loads((finished.path / "config.json").read_text())
    config |= {"store": base_options.store, "token_selection": "all"}
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    folder = tmp_path / "runs" / f"tiny-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    shutil.copytree(finished.path, folder)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def test_run_of_an_earlier_version_is_found_and_not_trained_again(
    options, earlier, tmp_path, capsys
):
    chosen = options(steps=3, root=str(earlier.parent))
    assert chosen.folder == earlier
    before = (earlier / "config.json").read_bytes()
    assert train(chosen).path == earlier
    assert "nothing to do" in capsys.readouterr().out
    assert (earlier / "config.json").read_bytes() == before
    assert [path.name for path in earlier.parent.iterdir()] == [earlier.name]


def test_other_options_do_not_match_the_earlier_run(options, earlier):
    assert options(steps=3, seed=1, root=str(earlier.parent)).folder != earlier
    assert options(steps=3, name="tin", root=str(earlier.parent)).folder != earlier


def test_earlier_run_is_identified_by_store_contents_not_path(options, earlier):
    """The store was moved after the run: the recorded path no longer exists."""
    config = json.loads((earlier / "config.json").read_text())
    (earlier / "config.json").write_text(json.dumps({**config, "store": "/gone/store"}))
    assert options(steps=3, root=str(earlier.parent)).folder == earlier
    facts = json.loads((earlier / "facts.json").read_text())
    (earlier / "facts.json").write_text(json.dumps({**facts, "store_fingerprint": "0" * 64}))
    assert options(steps=3, root=str(earlier.parent)).folder != earlier


def test_recorded_token_selection_is_replaced_by_all(earlier):
    """It was in the hash and the facts, but the training step never read it."""
    for name in ("config.json", "facts.json"):
        content = json.loads((earlier / name).read_text())
        (earlier / name).write_text(json.dumps({**content, "token_selection": "rho"}))
    assert RunDirectory(earlier).facts["token_selection"] == "all"
    assert "token_selection" not in RunDirectory(earlier).config


def test_run_name_with_glob_characters_is_found(finished, tmp_path, options):
    folder = tmp_path / "a[b]*-00000000"
    shutil.copytree(finished.path, folder)
    assert find_run(tmp_path, "a[b]*", identity(options(steps=3))) == folder


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.json", ""), ("facts.json", None), ("facts.json", "{}"), ("facts.json", "[]")],
)
def test_damaged_run_of_the_same_name_does_not_block_another(options, earlier, name, content):
    if content is None:
        (earlier / name).unlink()
    else:
        (earlier / name).write_text(content)
    chosen = options(steps=3, seed=1, root=str(earlier.parent))
    assert not chosen.folder.exists()
    with pytest.raises(UserError, match=name):  # opening the damaged run itself raises one line
        _ = RunDirectory(earlier).config
