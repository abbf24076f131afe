#!/usr/bin/env bash
# Ask for a TPU slice, wait for it, run one lossline command on all its hosts, and give the slice back.
#
#   SPOT=yes experiments/launchers/tpu_queue.sh my-run us-central2-b v4-128 train --gin_file=my_run.gin --gin.train.root=/mnt/runs
#
# Needs: gcloud with a project and quota for the slice; a root of the runs that outlives the slice and that all hosts see. The
#   files of this checkout that git tracks or would track are copied to the hosts, so my_run.gin may be a new file.
# Does: creates the queued resource NAME (a v4-128 has 64 chips: the number counts cores), polls until it is ACTIVE, copies the
#   checkout, runs tpu_pod.sh, and deletes the slice, also after Ctrl-C (which saves a checkpoint first) and after an error.
# Preemption (SPOT=yes): the queued resource becomes SUSPENDED. It is deleted, asked for again, and the same command continues
#   from the newest checkpoint. A command that fails on an ACTIVE slice is not repeated.
# Variables: SPOT=yes (cheaper, may be preempted), VERSION (image of the hosts), POLL (seconds between two looks).
set -euo pipefail
if [ $# -lt 4 ]; then
  echo "usage: $0 NAME ZONE ACCELERATOR VERB [ARGUMENT ...]" >&2
  exit 2
fi
name=$1 zone=$2 accelerator=$3
shift 3
cd "$(dirname "$0")/../.."
spot=${SPOT:-no} version=${VERSION:-tpu-ubuntu2204-base} poll=${POLL:-30}

queue() {
  local action=$1
  shift
  gcloud compute tpus queued-resources "$action" "$name" --zone="$zone" "$@"
}

state() {
  queue describe --format='value(state.state)' || echo UNKNOWN # no answer is not a preemption
}

create() {
  options=(--node-id="$name" --accelerator-type="$accelerator" --runtime-version="$version")
  [ "$spot" = yes ] && options+=(--spot)
  queue create "${options[@]}"
}

give_back() {
  trap '' INT TERM
  queue delete --force --quiet || echo "$0: could not delete $name in $zone: delete it yourself" >&2
}

wait_until_active() {
  while :; do
    now=$(state)
    echo "$0: $name is $now" >&2
    case $now in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED) return 1 ;;
    esac
    sleep "$poll"
  done
}

copy() {
  local package
  package=$(mktemp) &&
    git ls-files -z --cached --others --exclude-standard | tar -cz --null -T - -f "$package" &&
    gcloud compute tpus tpu-vm scp "$package" "$name:lossline.tar.gz" --zone="$zone" --worker=all &&
    gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
      --command='mkdir -p ~/lossline && tar -xzf ~/lossline.tar.gz -C ~/lossline' &&
    rm -f "$package"
}

was_preempted() { # the state changes up to a minute after the hosts are gone
  for _ in 1 2 3 4; do
    case $(state) in
      SUSPENDING | SUSPENDED) return 0 ;;
    esac
    sleep "$poll"
  done
  return 1
}

create
trap give_back EXIT
running=
trap '[ -z "$running" ] || { kill -TERM "$running"; wait "$running" || true; }; exit 130' INT TERM
while :; do
  status=0
  if wait_until_active && copy; then
    experiments/launchers/tpu_pod.sh "$name" "$zone" "$@" &
    running=$!
    wait "$running" || status=$?
    running=
    [ "$status" -eq 0 ] && exit 0
  else
    status=1
  fi
  was_preempted || exit "$status"
  echo "$0: $name was preempted; asking for it again" >&2
  queue delete --force --quiet
  create
done
