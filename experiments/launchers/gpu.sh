#!/usr/bin/env bash
# Runs one verb on the GPUs of this machine.
#
#   experiments/launchers/gpu.sh train --gin_file=gin_configs/runs/my_run.gin
#
# Makes the environment of the Makefile with the [gpu] extra (CUDA 13 wheels of JAX). The mesh is part of the run's gin file
# (`mesh.data = 8`).
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ $# -lt 1 ]; then
  echo "usage: $0 VERB [ARGUMENT ...]" >&2
  exit 2
fi
verb=$1
shift
make --no-print-directory .venv/.installed-gpu
exec .venv/bin/python -m "lossline.$verb" "$@"
