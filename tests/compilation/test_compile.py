"""Ahead-of-time compilation of a training step: report, search, targets and errors."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import pytest

from lossline.cli.compile_command import CompileOptions, compile_step, render
from lossline.compilation import search as searching
from lossline.compilation import targets
from lossline.compilation.analysis import (
    Memory,
    StepReport,
    analyze,
    out_of_memory,
    trainer_for,
)
from lossline.compilation.flops import matmul_flops, total
from lossline.errors import UserError
from lossline.models import HybridConfig, LlamaConfig, Mamba2Config, MambaConfig
from lossline.ops.backend import compiling_for
from lossline.sharding import MeshOptions, Rings, make_mesh
from lossline.training.hardware import peak_flops
from lossline.training.make_trainer import step_arguments
from lossline.training.options import Documents, TrainOptions

TINY = LlamaConfig(
    vocab_size=256, width=64, layers=3, heads=4, mlp_width=128, context_length=64, remat="none"
)


def training(**changes) -> TrainOptions:
    options = {"model": TINY, "store": "unread", "batch_size": 16, "steps": 100, **changes}
    return TrainOptions(**options)


def here(**changes) -> targets.Target:
    chip = targets.Chip(name="test chip", flops=1e12, memory=1e9, bandwidth=1e11, link=1e10)
    return targets.Target(
        name="cpu", backend="cpu", chip=replace(chip, **changes), devices=jax.devices("cpu")
    )


@pytest.fixture(scope="module")
def report() -> StepReport:
    return analyze(training(mesh=MeshOptions(data=2, fsdp=2, tensor=2)), here())


def test_the_report_has_the_memory_of_the_sharded_step(report):
    assert report.fits
    assert report.mesh == {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}
    params = TINY.num_params().total
    # Parameters and two moments in float32; most parameters are split over 4 devices.
    state = 3 * 4 * params
    assert state / 8 < report.memory.arguments < state / 2
    assert report.memory.reused > 0.9 * report.memory.results  # the state is donated
    assert report.memory.peak >= report.memory.arguments
    assert report.unknown_loops == 0


def test_flops_match_the_model_and_remat_adds_a_forward_pass(report):
    """On CPU, attention runs only causal blocks, so it needs a little less than the formula."""
    options = training(model=replace(TINY, remat="full"))
    assert report.model_flops == options.flops_per_token * 16 * 64 / 8
    assert report.executed_flops == pytest.approx(report.model_flops, rel=0.15)
    trainer = trainer_for(options, here())
    with jax.set_mesh(trainer.mesh):
        traced = trainer.step.trace(*step_arguments(options, trainer))
    again = matmul_flops(traced.jaxpr) / 8
    assert 1.15 < again / report.executed_flops < 1.40


def test_collectives_use_the_axes_of_the_mesh(report):
    axes = {(row.kind, row.axes) for row in report.collectives}
    assert any("tensor" in over for _, over in axes)
    assert any("fsdp" in over for _, over in axes)
    data = analyze(training(mesh=MeshOptions(data=8)), here())
    assert {row.axes for row in data.collectives} == {"data"}
    reduced = sum(row.wire_bytes for row in data.collectives if row.kind == "all-reduce")
    # A ring all-reduce sends 2 × 7/8 of all gradients.
    assert 1.0 < reduced / (2 * 7 / 8 * 4 * TINY.num_params().total) < 1.3


def test_the_roofline_is_the_largest_of_three_times(report):
    bounds = (report.compute_seconds, report.memory_seconds, report.wire_seconds)
    assert report.step_seconds == max(bounds)
    assert report.compute_seconds == report.executed_flops / 1e12
    assert report.mfu_causal_bound == report.causal_flops / (1e12 * report.step_seconds)
    assert report.tokens_per_second == 16 * 64 / report.step_seconds
    text = render(training(), report, here())
    for words in ("memory", "HBM", "roofline", "MFU", "tokens/s", "chip-hours", "over fsdp"):
        assert words in text


LONG = replace(TINY, layers=1, mlp_width=64, context_length=1024)
SCAN = MambaConfig(vocab_size=64, width=64, layers=2, context_length=64, state=64)


@pytest.mark.parametrize("model", [LONG, SCAN], ids=["attention", "scan"])
def test_the_bound_on_mfu_is_at_most_100_percent(model):
    """The bound holds even if only operations limit the step and it runs fewer than the model
    counts.

    Attention runs only the causal half of the square; a scan runs elementwise operations instead of
    matrix products.
    """
    target = here(bandwidth=None, link=None)
    options = training(model=model, batch_size=8, mesh=MeshOptions(data=8))
    report = analyze(options, target)
    assert report.executed_flops < report.model_flops
    assert 0.5 < report.mfu_causal_bound <= 1
    assert report.compute_seconds * 1e12 == max(report.executed_flops, report.causal_flops)
    text = render(options, report, target)
    assert f"MFU         ≤ {100 * report.mfu_causal_bound:.1f}% (mfu_causal;" in text
    assert f"{report.model_flops / report.causal_flops:.3f} times that" in text


def test_a_step_that_does_not_fit_gives_the_excess_and_a_setting_that_fits(monkeypatch, capsys):
    needed = {"none": 3e9, "full": 0.5e9}

    def pretend(options, target):
        size = needed[options.model.remat] / options.microbatches
        return StepReport(
            topology="cpu", chip="test chip", devices=8, mesh={"data": 8}, remat="none",
            microbatches=options.microbatches, batch_size=16, context_length=64, total_steps=100,
            compile_seconds=1.0, fits=size <= 1e9, memory_limit=1e9, needed=size,
        )  # fmt: skip

    monkeypatch.setattr("lossline.cli.compile_command.analyze", pretend)
    monkeypatch.setattr("lossline.compilation.search.analyze", pretend)
    monkeypatch.setattr("lossline.cli.compile_command.find_target", lambda name: here())
    with pytest.raises(UserError) as mistake:
        compile_step(CompileOptions(train=training(), topology="cpu"))
    message = str(mistake.value)
    assert "needs 2.79 GiB of 0.93 GiB, 1.86 too much" in message
    assert "it fits with" in message
    assert "remat=full" in message
    assert "\n" not in message
    said = capsys.readouterr().out.splitlines()
    assert "searching for settings that fit" in said[0]
    assert len(said) == len(set(said))  # the same mesh by two names is tried once


@pytest.mark.parametrize(
    "kind",
    [
        "TPU v4",
        "TPU v5 lite",
        "TPU v5",
        "TPU v6 lite",
        "NVIDIA H200",
        "NVIDIA H100 80GB HBM3",
        "NVIDIA H100 PCIe",
        "NVIDIA A100-SXM4-80GB",
    ],
)
def test_compile_and_train_use_the_same_peak_flops(kind):
    platform = "tpu" if kind.startswith("TPU") else "gpu"
    device = SimpleNamespace(device_kind=kind, platform=platform)
    chip = targets._chip_of(device)
    assert chip.flops == peak_flops(device)


def test_a_state_that_does_not_fit_is_not_compiled(monkeypatch, capsys):
    """Each device needs a quarter of all parameters and two moments, in float32."""
    params = TINY.num_params().total
    chip = targets.Chip(name="TPU v4", memory=0.9 * 3 * params)
    devices = jax.devices("cpu")[:4]
    target = targets.Target(name="v4:2x2x1", backend="cpu", chip=chip, devices=devices)
    monkeypatch.setattr("lossline.cli.compile_command.find_target", lambda name: target)
    monkeypatch.setattr("jax.stages.Lowered.compile", lambda self: pytest.fail("compiled"))
    options = training(mesh=MeshOptions(data=1, fsdp=4))
    report = analyze(options, target)
    assert not report.fits and report.state_alone
    assert report.needed == report.state_bytes == pytest.approx(12 * params / 4, rel=0.01)
    with pytest.raises(UserError) as mistake:
        compile_step(CompileOptions(train=options, topology="v4:2x2x1"))
    message = str(mistake.value)
    assert "its parameters and moments alone need" in message
    # 12 bytes per parameter; 2.7 bytes per parameter fit one device: 4.44 devices.
    assert message.endswith(
        "no cheaper setting fits either (1 tried): at least 5 × TPU v4 for the state alone, such "
        "as v4:2x2x2, or a smaller model"
    )
    assert "of parameters and moments alone, does not fit" in capsys.readouterr().out
    trials = searching.search(options, target, max_trials=9, say=lambda text: None)
    assert all(isinstance(trial, str) or trial.state_alone for _, trial in trials)
    odd = replace(options, mesh=MeshOptions(data=1, fsdp=3))  # a search ignores this mesh
    with pytest.raises(UserError, match=r"fits v4:2x2x1. Use at least 5 .* such as v4:2x2x2"):
        compile_step(CompileOptions(train=odd, topology="v4:2x2x1", search=True))


def test_out_of_memory_messages_of_the_compiler_are_read():
    text = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 61.95G of 30.75G hbm. Exceeded hbm capacity by 31.20G."
    )
    assert out_of_memory(text) == pytest.approx(61.95 * 2**30)
    text = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (52.22G) exceeds available HBM (30.75G)."
    )
    assert out_of_memory(text) == pytest.approx(52.22 * 2**30)
    assert math.isnan(out_of_memory("RESOURCE_EXHAUSTED: in words of tomorrow"))
    assert out_of_memory("INTERNAL: something else") is None


def pretend_search(monkeypatch, fits, refused=lambda options: False, needed=1e8):
    compiled = []

    def analyze_one(options, target):
        if refused(options):
            raise UserError("the mesh does not divide the heads")
        compiled.append(options)
        slow = {"none": 1.0, "dots": 1.1, "full": 1.33}[options.model.remat]
        seconds = slow * options.mesh.tensor * (1 + 0.01 * options.microbatches)
        return StepReport(
            topology="cpu", chip="c", devices=8, mesh={}, remat=options.model.remat, batch_size=16,
            microbatches=options.microbatches, context_length=64, total_steps=1,
            compile_seconds=0.0, fits=fits(options), memory_limit=1e9, needed=needed,
            compute_seconds=seconds, peak_flops=1e12, model_flops=1e9,
        )  # fmt: skip

    monkeypatch.setattr("lossline.compilation.search.analyze", analyze_one)
    return compiled


def test_search_finds_the_fastest_setting_that_fits(monkeypatch):
    compiled = pretend_search(monkeypatch, lambda o: o.model.remat != "none" or o.mesh.tensor > 2)
    trials = searching.search(training(), here(), max_trials=50, say=lambda text: None)
    choice, report = searching.best(trials)
    assert (choice.model.remat, choice.mesh.tensor, choice.microbatches) == ("dots", 1, 1)
    assert report.fits
    # A setting that fits without recomputation is not tried with recomputation.
    assert not any(o.mesh.tensor == 4 and o.model.remat != "none" for o in compiled)


def test_shards_below_a_tile_come_last():
    wide = training(model=replace(TINY, width=2048), batch_size=512)
    meshes = [policies[0][0].mesh for policies in searching.variants(wide, 64)]
    assert [mesh.fsdp for mesh in meshes if mesh.tensor == 1] == [16, 8, 64, 32, 1]


def test_recomputing_more_is_not_tried_where_compute_is_the_bound(monkeypatch):
    def fits(options):
        return options.microbatches >= (2 if options.model.remat == "none" else 1)

    compiled = pretend_search(monkeypatch, fits)
    searching.search(training(), here(), max_trials=2, say=lambda text: None)
    assert [(o.model.remat, o.microbatches) for o in compiled] == [("none", 1), ("none", 2)]
    compiled.clear()
    searching.search(training(), here(), max_trials=3, say=lambda text: None)
    assert compiled[2].mesh != compiled[1].mesh and compiled[2].model.remat == "none"


def pretend_tpu(monkeypatch, limits=1e9, needed=lambda options: 1e8, pace=lambda options: 1.0):
    """Let the search compile for a TPU; ``needed`` and ``pace`` give bytes and seconds."""
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    compiled = []

    def analyze_one(options, target):
        compiled.append(options)
        size = needed(options)
        return StepReport(
            topology="v4", chip="c", devices=8, mesh={}, remat=options.model.remat, batch_size=16,
            microbatches=options.microbatches, context_length=64, total_steps=1,
            compile_seconds=0.0, fits=size <= limits, memory_limit=limits, needed=size,
            compute_seconds=pace(options), peak_flops=1e12, model_flops=1e9, causal_flops=1e9,
            memory=Memory(arguments=size, temporaries=0, results=0, reused=0, code=0),
        )  # fmt: skip

    monkeypatch.setattr("lossline.compilation.search.analyze", analyze_one)
    return compiled, replace(here(), backend="tpu")


def test_the_fastest_settings_are_tried_with_rings_last(monkeypatch):
    """Rings win here on meshes with tensor = 2, which are second without rings."""

    def pace(options):
        rings = 0.5 if options.mesh.tensor == 2 else 3.0
        return options.mesh.tensor * (rings if options.mesh.rings is Rings.ON else 1.0) + (
            0.01 * options.mesh.data
        )

    compiled, target = pretend_tpu(monkeypatch, pace=pace)
    options = training(mesh=MeshOptions(rings=Rings.ON))  # the file's choice is searched anew
    trials = searching.search(options, target, max_trials=8, say=lambda text: None)
    assert len(compiled) == 8
    assert [o.mesh.rings for o in compiled] == [Rings.OFF] * 6 + [Rings.ON] * 2
    without = sorted(compiled[:6], key=pace)
    assert [replace(o.mesh, rings=Rings.OFF) for o in compiled[6:]] == [o.mesh for o in without[:2]]
    choice, _ = searching.best(trials)
    assert choice.mesh.rings is Rings.OFF and choice.mesh.tensor == 1
    trials = searching.search(options, target, max_trials=200, say=lambda text: None)
    assert len([o for o in compiled[8:] if o.mesh.rings is Rings.ON]) == searching.WITH_RINGS


def test_rings_win_where_only_they_fit(monkeypatch, capsys):
    """A step that is a little too large is tried with rings, which may need less memory."""

    def needed(options):
        whole = 1.1e9 if options.model.remat == "full" and options.mesh.fsdp == 8 else 5e9
        return whole * (0.8 if options.mesh.rings is Rings.ON else 1.0)

    _, target = pretend_tpu(monkeypatch, needed=needed)
    monkeypatch.setattr("lossline.cli.compile_command.find_target", lambda name: target)
    compile_step(CompileOptions(train=training(), topology="v4:2x2x2", search=True))
    said = capsys.readouterr().out
    bound = """
    train.mesh = @mesh()
    mesh.data = 1
    mesh.fsdp = 8
    mesh.tensor = 1
    mesh.rings = 'on'
    train.microbatches = 1
    llama.remat = 'full'
"""
    assert "rings=on, microbatches=1; as bindings:" + bound in said


def test_a_flag_of_the_user_decides_about_rings_in_a_search(monkeypatch):
    compiled, target = pretend_tpu(monkeypatch)
    flag = "--xla_jf_spmd_threshold_for_windowed_einsum_mib=0"
    monkeypatch.setenv("LIBTPU_INIT_ARGS", flag)
    searching.search(training(), target, max_trials=8, say=lambda text: None)
    assert compiled and all(options.mesh.rings is Rings.AUTO for options in compiled)


def test_equal_bounds_are_decided_by_the_least_communication():
    """Compute time bounds all of them equally; the smallest sum of times is the best."""
    base = StepReport(
        topology="cpu", chip="c", devices=8, mesh={}, remat="none", batch_size=16, microbatches=1,
        context_length=64, total_steps=1, compile_seconds=0.0, fits=True, memory_limit=1e9,
        needed=1e8, compute_seconds=2.0, memory_seconds=0.5,
    )  # fmt: skip
    wires = (1.8, 0.4, 0.9, 2.1)
    trials = [(training(), replace(base, wire_seconds=seconds)) for seconds in wires]
    assert searching.best(trials)[1].wire_seconds == 0.4


def test_search_skips_microbatches_that_cannot_fit(monkeypatch):
    def fits(options):
        return options.microbatches >= 8

    compiled = pretend_search(monkeypatch, fits, needed=12e9)  # 12 times the memory
    options = training(batch_size=128)
    searching.search(options, here(), max_trials=2, say=lambda text: None)
    assert [choice.microbatches for choice in compiled] == [1, 8]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(86_400.2, "86400 s"), (22.9587, "22.96 s"), (0.99996, "1000 ms"), (2.1e-5, "21 µs")],
)
def test_short_times_are_not_rounded_to_zero(seconds, shown):
    assert searching.duration(seconds) == shown


def test_search_stops_at_its_limit_and_skips_refused_settings(monkeypatch):
    said = []
    compiled = pretend_search(monkeypatch, lambda o: False, refused=lambda o: o.mesh.tensor == 1)
    trials = searching.search(training(), here(), max_trials=3, say=said.append)
    assert len(compiled) == 3
    assert searching.best(trials) is None
    assert any("does not divide the heads" in line for line in said)
    assert "stopped after 3" in said[-1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v7:2x2", "no topology 'v7:2x2'; choose one of TPU slices"),
        ("v4", "no topology 'v4'"),
        ("v4:4x4", "v4 slices have 3 dimensions; write for example v4:2x2x1"),
        ("gpu", "this machine has no gpu"),
        ("cpu:99", "this machine has 8 cpu devices; write cpu:8"),
        ("cpu:0", "needs at least one device; write cpu:1"),
    ],
)
def test_an_unknown_topology_is_refused_with_the_known_ones(name, words):
    with pytest.raises(UserError) as mistake:
        targets.find_target(name)
    assert words in str(mistake.value)


def test_missing_libtpu_gives_an_install_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install libtpu"):
        targets.find_target("v4:2x2x1")


def test_a_search_without_trials_is_refused():
    with pytest.raises(UserError, match="max_trials = 0: must be at least 1"):
        CompileOptions(train=training(), max_trials=0)


def test_an_existing_file_is_not_overwritten(tmp_path):
    path = tmp_path / "step.json"
    path.write_text("mine")
    with pytest.raises(UserError, match="exists"):
        compile_step(CompileOptions(train=training(), topology="cpu", out=str(path)))
    assert path.read_text() == "mine"


def test_an_unwritable_report_is_refused_before_compiling(tmp_path, monkeypatch):
    monkeypatch.setattr("lossline.cli.compile_command.find_target", lambda _: pytest.fail("began"))
    (tmp_path / "file").write_text("")
    for out, folder in (
        (tmp_path / "file/deep/step.json", ".*/file"),
        ("/proc/step.json", "/proc"),
    ):
        with pytest.raises(
            UserError, match=rf"step.json: folder {folder} is not writable\. Choose"
        ):
            compile_step(CompileOptions(train=training(), topology="cpu", out=str(out)))


def test_a_mesh_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(UserError, match="12 is not divisible"):
        analyze(training(batch_size=12), here())


def run_verb(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "lossline.compile", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, **environment},
    )


@pytest.fixture
def gin_file(tmp_path):
    path = tmp_path / "tiny.gin"
    path.write_text(
        "train.model = @llama()\ntrain.batch_size = 16\ntrain.steps = 100\n"
        "llama.vocab_size = 256\nllama.width = 64\nllama.layers = 2\nllama.heads = 4\n"
        "llama.mlp_width = 128\nllama.context_length = 64\n"
    )
    return path


@pytest.mark.slow
def test_the_command_reads_the_gin_file_of_a_training(gin_file, tmp_path):
    out = tmp_path / "report.json"
    done = run_verb(f"--gin_file={gin_file}", "--topology=cpu:4", f"--out={out}", XLA_FLAGS="")
    assert done.returncode == 0, done.stderr
    assert "4 × cpu, mesh data=4" in done.stdout
    tree = json.loads(out.read_text())
    assert tree["devices"] == 4
    assert tree["step_seconds"] is None
    assert tree["memory"]["peak"] > 0


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed ([tpu] extra)"
)


MIXED = HybridConfig(
    vocab_size=256, width=128, layers=2, attention_every=2, heads=2, mlp_width=128,
    context_length=512,
)  # fmt: skip


@needs_libtpu
def test_a_mesh_axis_may_use_part_of_a_dimension_of_the_torus():
    target = targets.find_target("v4:8x8x8")
    mesh = make_mesh(MeshOptions(data=16, fsdp=32), devices=target.devices)
    assert dict(mesh.shape) == {"data": 16, "fsdp": 32, "sequence": 1, "tensor": 1}


@needs_libtpu
def test_a_slice_that_libtpu_refuses_gives_the_listed_ones():
    with pytest.raises(UserError, match=r"libtpu refuses topology 'v4:3x3x3'.*2x2x1, 2x2x2"):
        targets.find_target("v4:3x3x3")


@pytest.mark.slow
@needs_libtpu
def test_a_tpu_slice_is_compiled_for_without_a_tpu(gin_file):
    done = run_verb(f"--gin_file={gin_file}", "--topology=v4:2x2x1", XLA_FLAGS="")
    assert done.returncode == 0, done.stderr
    assert "4 × TPU v4" in done.stdout
    assert "MFU" in done.stdout
    assert "could not determine" not in done.stderr


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize(
    ("model", "topology", "kernels"),
    [
        (replace(TINY, kv_heads=2, context_length=128, remat="dots"), "v4:2x2x1", 3 * 3),
        (replace(TINY, context_length=256, remat="full"), "v6e:2x2", 3 * 4),  # the forward twice
        (MambaConfig(vocab_size=256, width=128, layers=2, context_length=128), "v4:2x2x1", 2 * 2),
        (MambaConfig(vocab_size=256, width=128, layers=2, context_length=128), "v5e:2x2", 2 * 2),
        (Mamba2Config(vocab_size=256, width=128, layers=2, context_length=512), "v4:2x2x1", 0),
        (MIXED, "v4:2x2x1", 1 * 3),
    ],
    ids=["attention-v4", "attention-v6e", "scan-v4", "scan-v5e", "duality-v4", "hybrid-v4"],
)
def test_a_step_compiled_for_a_tpu_contains_its_kernels(model, topology, kernels):
    """The mesh uses data, fsdp and tensor, and documents are separate."""
    target = targets.find_target(topology)
    options = training(
        model=model, documents=Documents.SEPARATE, mesh=MeshOptions(data=1, fsdp=2, tensor=2)
    )
    assert analyze(options, target).fits
    trainer = trainer_for(options, target)
    with compiling_for("tpu"), jax.set_mesh(trainer.mesh):
        traced = trainer.step.trace(*step_arguments(options, trainer))
    calls = total(traced.jaxpr, lambda e: 1.0 if e.primitive.name == "pallas_call" else None)
    assert calls == 4 * kernels  # four devices
