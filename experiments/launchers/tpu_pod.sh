#!/usr/bin/env bash
# Starts one verb on every host of a TPU slice and follows its output.
#
#   experiments/launchers/tpu_pod.sh NAME ZONE train --gin_file=gin_configs/runs/my_run.gin --gin.train.root=/mnt/runs
#
# NAME is a TPU VM (for example a v4-128) that exists already, on whose hosts this repository lies in ~/lossline. The script
# installs the [tpu] extra there once and starts the same command on all of them: JAX finds the other hosts by itself
# (`train.launch = @launch()` and `launch.how = "auto"` in the run's gin file). The root of the runs is a disk that every host
# sees (NFS, or a mounted bucket that can rename folders); a token store may be read from gs://. A preemption, or Ctrl-C, ends
# all hosts after the same step with a checkpoint; the same command goes on from there.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: $0 NAME ZONE VERB [ARGUMENT ...]" >&2
  exit 2
fi
name=$1 zone=$2 verb=$3
shift 3
arguments=$(printf '%q ' "$@")
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
  set -e
  cd ~/lossline
  test -x .venv/bin/python || python3 -m venv .venv
  test -e .venv/.installed-tpu || { .venv/bin/python -m pip install -q -c constraints.txt -e '.[tpu]' && touch .venv/.installed-tpu; }
  exec .venv/bin/python -m lossline.$verb $arguments"
