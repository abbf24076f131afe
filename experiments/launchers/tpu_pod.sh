#!/usr/bin/env bash
# Start one lossline command on every host of a TPU slice and show its output.
#
#   experiments/launchers/tpu_pod.sh NAME ZONE train --gin_file=gin_configs/runs/my_run.gin --gin.train.root=gs://my-bucket/runs
#
# NAME is an existing TPU VM (for example a v4-128) with this repository in ~/lossline on every host. The script installs the
# [tpu] and [buckets] extras once and starts the same command on all hosts. JAX finds the other hosts by itself if the gin file of the run has
# `train.launch = @launch()` and `launch.how = "auto"`. All hosts must see the root of the runs: a
# bucket (docs/guides/buckets.md) or NFS. After a preemption or Ctrl-C, all hosts stop after the same step with a
# checkpoint; run the same command again to resume.
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
  test -e .venv/.installed-tpu || { .venv/bin/python -m pip install -q -c constraints.txt -e '.[tpu,buckets]' && touch .venv/.installed-tpu; }
  exec .venv/bin/python -m lossline.$verb $arguments"
