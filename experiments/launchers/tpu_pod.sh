#!/usr/bin/env bash
# Start one lossline command on every host of an existing TPU slice and show its output.
#
#   experiments/launchers/tpu_pod.sh NAME ZONE train --gin_file=my_run.gin --gin.train.root=gs://my-bucket/runs
#
# Needs: gcloud; a TPU VM NAME (for example a v4-128) with this repository in ~/lossline on every host (tpu_queue.sh copies it);
#   a root of the runs that all hosts see: a bucket (docs/guides/buckets.md) or NFS.
# Does: installs the [tpu] and [buckets] extras once per host and starts the same command on all hosts. `train`,
#   `evaluate` and `score` find the other hosts by themselves: the script binds `launch.how = "auto"`. Other verbs are refused.
# Ctrl-C, or SIGTERM to this script: all hosts stop after the same step with a checkpoint. The same command continues.
# Preemption: the hosts are gone, without a checkpoint if they had no time for one. Make another slice and run the same command
#   again: it continues from the newest checkpoint. tpu_queue.sh does both.
# Rings: `mesh.rings` is "auto" (off); bind what `lossline.compile --search` prints. LIBTPU_INIT_ARGS of this shell is handed on.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: $0 NAME ZONE VERB [ARGUMENT ...]" >&2
  exit 2
fi
name=$1 zone=$2 verb=$3
shift 3
case "$verb $* " in
  train\ * | evaluate\ *) options=$verb ;;
  score*\ --tokens\ *) options=token_scores ;;
  score\ *) options=score ;;
  *)
    echo "$0: $verb runs in one process; train, evaluate and score run in several. Start it on one machine." >&2
    exit 2
    ;;
esac
set -- "--gin.$options.launch=@launch()" --gin.launch.how=auto "$@"

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

stop() {
  trap '' INT TERM
  echo "$0: stopping; the hosts save a checkpoint" >&2
  on_all_hosts 'pid=$(cat ~/.lossline.pid) && kill -TERM "$pid" && tail --pid="$pid" -f /dev/null' || true
  exit 130
}

trap stop INT TERM
on_all_hosts "
  set -e
  cd ~/lossline
  test -x .venv/bin/python || python3 -m venv .venv
  test -e .venv/.installed-tpu || { .venv/bin/python -m pip install -q -c constraints.txt -e '.[tpu,buckets]' && touch .venv/.installed-tpu; }
  echo \$\$ > ~/.lossline.pid
  export LIBTPU_INIT_ARGS=$(printf '%q' "${LIBTPU_INIT_ARGS:-}")
  exec .venv/bin/python -m lossline.$verb $(printf '%q ' "$@")" &
wait $!
