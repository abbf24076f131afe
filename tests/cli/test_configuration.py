"""Command lines and gin files: every user error is one line with exit status 2."""

from __future__ import annotations

import dataclasses
import enum
import errno
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from lossline.cli.configuration import (
    Flag,
    Verb,
    _parse_command_line,
    binding,
    build_options,
    run_verb,
)
from lossline.errors import UserError
from lossline.options.identity import fingerprint, identity

VERBS = [
    *(
        "gather",
        "prepare",
        "train",
        "evaluate",
        "fit",
        "predict",
        "import_sweep",
        "report",
        "study",
    ),
    *("compile", "convert"),
]


class Rule(enum.Enum):
    SLIDE = "slide"
    TRUNCATE = "truncate"


@dataclass(frozen=True, kw_only=True)
class Model:
    width: int
    rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Other:
    width: int = 1


@dataclass(frozen=True, kw_only=True)
class Options:
    model: Model
    steps: int = 5
    rule: Rule = Rule.SLIDE
    sizes: tuple[int, ...] = (1, 2)
    limits: dict[str, float] = field(default_factory=dict)
    out: str = field(default="here", metadata={"identity": False})


VERB = Verb(options=Options, run=print, components={"demo_model": Model, "demo_other": Other})
BASE = ["demo.model = @demo_model()", "demo_model.width = 8"]


def options_of(*bindings: str) -> Options:
    return build_options("demo", VERB, bindings=[*BASE, *bindings])


def test_values_take_their_annotated_types() -> None:
    options = options_of(
        "demo.rule = 'truncate'",
        "demo.sizes = [3, 4]",
        "demo.limits = {'a': 1}",
        "demo_model.rate = 2",
    )
    assert options.rule is Rule.TRUNCATE
    assert options.sizes == (3, 4)
    assert options.limits == {"a": 1.0} and isinstance(options.limits["a"], float)
    assert isinstance(options.model.rate, float)


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["demo.stps = 3"], "did you mean demo.steps"),
        (["dmo.steps = 3"], "did you mean demo"),
        (["demo.steps = 'many'"], "demo.steps = 'many': must be a whole number"),
        (["demo.steps = True"], "not True or False"),
        (["demo.steps = 2.5"], "demo.steps = 2.5: must be a whole number"),
        (["demo.rule = 'skip'"], "must be one of 'slide', 'truncate'"),
        (["demo.sizes = 3"], "must be a list"),
        (["demo.sizes = [1, 'x']"], "demo.sizes[1] = 'x'"),
        (["demo.model = 3"], "must be of type Model (as @name())"),
        (["demo.model = @demo_other()"], "must be of type Model (as @name())"),
        (["demo.model = @nothing()"], "nothing is called 'nothing'"),
        (["demo_other.width = 3"], "unused binding: demo_other.width"),
        (["WIDTH = 3"], "unused binding: WIDTH"),
        (["demo_model.width = %WIDTH"], "refers to %WIDTH"),
        (["demo_model.width = %gin.REQUIRED"], "missing binding: demo_model.width"),
    ],
)
def test_wrong_binding_is_named(bindings: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        options_of(*bindings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_binding_is_named() -> None:
    with pytest.raises(UserError, match=r"missing binding: demo\.model"):
        build_options("demo", VERB)


class Grid(Protocol):
    def points(self) -> list[str]: ...


@dataclass(frozen=True, kw_only=True)
class Line:
    step: float = 1.0

    def points(self) -> list[str]:
        return []


@dataclass(frozen=True, kw_only=True)
class Planned:
    grid: Grid


@pytest.mark.parametrize(
    ("wrong", "mend"),
    [
        ("3", r"must be of type Grid \(as @name\(\)\)"),
        ("@demo_other()", r"must be of type Grid \(as @name\(\)\)"),
        ("@demo_line", r"write @demo_line\(\) with brackets"),
    ],
)
def test_component_without_what_its_protocol_asks_for_is_refused(wrong: str, mend: str) -> None:
    verb = Verb(
        options=Planned,
        run=print,
        components={"demo_line": Line, "demo_other": Other},
        name="planned",
    )
    assert build_options("planned", verb, bindings=["planned.grid = @demo_line()"]).grid == Line()
    with pytest.raises(UserError, match=rf"planned\.grid = .*: {mend}"):
        build_options("planned", verb, bindings=[f"planned.grid = {wrong}"])


def test_scoped_bindings_count_as_used() -> None:
    options = build_options(
        "demo",
        VERB,
        bindings=[
            "demo.model = @small/demo_model()",
            "small/demo_model.width = 2",
            "demo_model.rate = 1.0",
        ],
    )
    assert options.model == Model(width=2, rate=1.0)


def test_missing_file_suggests_the_most_similar_name(tmp_path: Path) -> None:
    (tmp_path / "run.gin").write_text("")
    with pytest.raises(UserError, match=r"did you mean .*run\.gin"):
        build_options("demo", VERB, gin_files=[tmp_path / "runn.gin"])


def test_folder_of_the_same_name_does_not_hide_an_included_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``include "runs/base.gin"`` in a working folder that has ``runs/``."""
    configs, work = tmp_path / "configs", tmp_path / "work"
    (configs / "runs").mkdir(parents=True)
    (work / "runs").mkdir(parents=True)
    (configs / "runs/base.gin").write_text("demo.steps = 7\ndemo.model = @demo_model()\n")
    (configs / "run.gin").write_text("include 'runs/base.gin'\ndemo_model.width = 2\n")
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(str(work))
    assert build_options("demo", VERB, gin_files=[configs / "run.gin"]).steps == 7


def test_a_gin_file_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    path = tmp_path / "run.gin"
    path.write_bytes("\n".join(["demo.steps = 7  # Länge", *BASE]).encode())
    code = (
        "import sys; sys.path.insert(0, 'tests/cli'); import test_configuration as t;"
        f"print(t.build_options('demo', t.VERB, gin_files=[{str(path)!r}]).steps)"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **plain}, capture_output=True, check=True
    )
    assert found.stdout.split() == [b"7"]
    path.write_bytes(b"demo.steps = 7\n# \xff\n")
    with pytest.raises(UserError, match=r"run\.gin, line 2: byte 0xff is not UTF-8\. Save"):
        build_options("demo", VERB, gin_files=[path])


def test_error_in_a_gin_file_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "run.gin"
    path.write_text("# comment\ndemo.stps = 3\n")
    with pytest.raises(UserError, match=r"run\.gin, line 2: .*demo\.steps"):
        build_options("demo", VERB, gin_files=[path])


def test_identity_excludes_options_that_do_not_change_the_experiment() -> None:
    one, two = options_of("demo.out = 'a'"), options_of("demo.out = 'b'")
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint(one) != fingerprint(options_of("demo.steps = 6"))
    assert identity(one)["model"] == {"__class__": "Model", "width": 8, "rate": 0.1}


def test_int_for_a_float_has_the_same_identity_from_python_and_gin() -> None:
    assert fingerprint(Model(width=8, rate=1)) == fingerprint(Model(width=8, rate=1.0))  # type: ignore[arg-type]


def test_identity_excludes_a_later_option_while_it_is_none() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Model:
        width: int = 8
        depth: int | None = field(default=None, metadata={"identity": "unless None"})
        height: int | None = None

    before = {"__class__": "Model", "width": 8, "height": None}
    assert identity(Model()) == before
    assert identity(Model(depth=0)) == {**before, "depth": 0}


def test_binding_writes_a_gin_line() -> None:
    assert binding("a.b", "x") == "a.b = 'x'"
    assert binding("a.b", "@c()") == "a.b = @c()"


def test_command_line_binds_options(capsys: pytest.CaptureFixture[str]) -> None:
    run_verb(
        "demo",
        "d",
        lambda: VERB,
        argv=[
            "--gin.demo.model=@demo_model()",
            "--gin.demo_model.width",
            "3",
            "--gin.demo.out=/a b",
        ],
    )
    assert "width=3" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        run_verb("demo", "d", lambda: VERB, argv=["--nonsense"])
    assert exit_.value.code == 2
    assert "lossline demo: error: unknown argument --nonsense" in capsys.readouterr().err


def test_binding_with_a_space_is_no_value_of_the_flag_before_it(capsys) -> None:
    flags = {"many": Flag("demo.name", "m", "values")}
    files, bindings = _parse_command_line(
        "demo",
        "",
        flags,
        ["--many", "a", "--gin.demo.x=[1, 2]", "--gin.demo.y", "b c"],
        lambda: VERB,
    )
    assert bindings == ["demo.name = ['a']", "demo.x = [1, 2]", "demo.y = 'b c'"]
    with pytest.raises(UserError, match=r"--gin\.demo\.x has no value"):
        _parse_command_line("demo", "", flags, ["--gin.demo.x", "--many", "a"], lambda: VERB)
    assert not files


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--steps=7", "argument --steps=7; did you mean --gin.demo.steps=VALUE?"),
        ("--rate", "--rate; did you mean --gin.demo_model.rate=VALUE?"),
        ("--width", "--gin.demo_model.width=VALUE or --gin.demo_other.width=VALUE?"),
        ("--wher=b", "--wher=b; did you mean --where?"),
        ("--dry-run", "--dry-run; did you mean --dry_run?"),
        ("--gin_fil=a", "did you mean --gin_file?"),
        ("steps", "steps; bind options as --gin.NAME=VALUE, see --help"),
    ],
)
def test_unknown_argument_gets_a_suggestion(argument, said, capsys) -> None:
    flags = {"where": Flag("demo.out", "a place"), "dry_run": Flag("demo.sizes", "b", "switch")}
    with pytest.raises(SystemExit) as exit_:
        run_verb("demo", "d", lambda: VERB, flags=flags, argv=[argument])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.endswith(f"{said}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: place. See --help."),
        (["here", "--where"], "argument --where: expected one argument. See --help."),
        (["here", "--place=there"], "unknown argument --place=there; give place without a name"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, said, capsys) -> None:
    flags = {
        "place": Flag("demo.name", "a place", "positional"),
        "where": Flag("demo.name", "where"),
    }
    with pytest.raises(SystemExit) as exit_:
        run_verb("demo", "", lambda: VERB, flags=flags, argv=arguments)
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith(f"lossline demo: error: {said}") and error.count("\n") == 1


def test_a_locale_without_a_character_gets_an_escape() -> None:
    code = (
        "from lossline.cli.configuration import Verb, run_verb\n"
        "from tests.cli.test_configuration import Other\n"
        "say = lambda options: print('2 × 3')\n"
        "run_verb('demo', 'd', lambda: Verb(options=Other, run=say), argv=[])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "2 \\xd7 3\n"), done.stderr


def test_unwritable_path_is_a_user_error(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")

    def write(options: Options) -> None:
        Path(options.out).mkdir(parents=True)

    def full(options: Options) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def library(options: Options) -> None:
        raise ValueError(
            'Error writing "a/0" in local file "/runs/x/": Failed to write 4 bytes to file 18: '
            "No space left on device [os_error_code='28']"
        )

    def missing(options: Options) -> None:
        Path(options.out).read_text()

    def run(verb: Verb, out: Path) -> None:
        bindings = ["--gin.demo.model=@demo_model()", "--gin.demo_model.width=3"]
        run_verb("demo", "d", lambda: verb, argv=[*bindings, f"--gin.demo.out={out}"])

    for does, out, said in (
        (write, "file/x", f"error: {tmp_path}/file/x: Not a directory. Choose another path."),
        (write, "file", f"error: {tmp_path}/file: File exists. Choose another path."),
        (
            write,
            "/proc/x/y",
            "error: /proc/x: no file or folder can be made there. Choose another path.",
        ),
        (full, "x", "error: No space left on device. Free space there, or choose another path."),
        (
            library,
            "x",
            "error: /runs/x/: No space left on device. Free space there, or choose another path.",
        ),
    ):
        with pytest.raises(SystemExit) as exit_:
            run(dataclasses.replace(VERB, run=does), tmp_path / out)
        assert exit_.value.code == 2
        assert capsys.readouterr().err == f"lossline demo: {said}\n"
    with pytest.raises(FileNotFoundError):  # a bug keeps its traceback
        run(dataclasses.replace(VERB, run=missing), tmp_path / "x")


@pytest.mark.parametrize("verb", VERBS)
def test_help_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('lossline.{verb}', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'numpy', 'tensorflow', 'pandas', 'gin', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "--gin_file" in result.stdout


def test_closed_reader_of_stdout_ends_the_verb_without_a_traceback():
    code = (
        "from lossline.cli.configuration import Verb, run_verb\n"
        "from tests.cli.test_configuration import Other\n"
        "def talk(options):\n"
        "    for _ in range(100_000):\n"
        "        print('a line of a long report')\n"
        "run_verb('demo', 'd', lambda: Verb(options=Other, run=talk), argv=[])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None and process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE
    assert process.stderr is not None and process.stderr.read() == ""


def test_other_broken_pipe_raises() -> None:
    def write(options: Other) -> None:
        raise BrokenPipeError(errno.EPIPE, "to a child")

    with pytest.raises(BrokenPipeError):
        run_verb("pipes", "d", lambda: Verb(options=Other, run=write), argv=[])
