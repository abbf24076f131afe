#!/usr/bin/env bash
# Run one lossline command on the GPUs of this machine.
#
#   experiments/launchers/gpu.sh train --gin_file=gin_configs/runs/my_run.gin
#
# The script makes the Makefile's environment with the [gpu] extra (JAX's CUDA 13 wheels). Set the mesh in the gin file of the
# run (`mesh.data = 8`).
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
