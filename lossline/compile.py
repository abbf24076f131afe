"""Compile a training step for a machine that may be elsewhere, and report what it would need.

    python -m lossline.compile --gin_file=experiments/compilation/llama_7b.gin --topology=v4:4x4x8
    python -m lossline.compile --gin_file=experiments/compilation/llama_7b.gin \\
        --topology=v4:4x4x8 --search

Reports per device: memory compared with the chip's, FLOPs, bytes over HBM, collective bytes per
mesh axis, and a roofline of step time and MFU; and for the whole run: tokens per second, days and
chip-hours. TPU slices (v4, v5e, v5p, v6e) need only the libtpu wheel, no TPU. h200:8, h100 and a100
need only the CUDA wheels, no GPU. Other topologies: cpu, cpu:8, gpu, here. The gin file is that of
`lossline.train`; its token store is not read.
"""

from __future__ import annotations

import sys

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Return the verb, with the components of ``lossline.train``, whose options it contains."""
    from lossline import train
    from lossline.cli.compile_command import CompileOptions, compile_step
    from lossline.training.options import TrainOptions

    components = {"train": TrainOptions, **train.load().components}
    return Verb(options=CompileOptions, run=compile_step, components=components)


FLAGS = {
    "topology": Flag("compile.topology", "v4:4x4x8, v5e:4x8, h200:8, cpu, cpu:8, gpu, here, …"),
    "search": Flag("compile.search", "try meshes, remat, microbatches and rings", "switch"),
    "out": Flag("compile.out", "JSON file for the report"),
}
# Bindings that `lossline.train` requires but this verb does not need. Bindings of the user come
# later and override them.
DEFAULTS = ("--gin.compile.train=@train()", "--gin.train.store=unread")

if __name__ == "__main__":
    run_verb("compile", __doc__, load, flags=FLAGS, argv=[*DEFAULTS, *sys.argv[1:]])
