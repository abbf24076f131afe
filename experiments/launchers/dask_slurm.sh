#!/usr/bin/env bash
# Start Dask workers for text work as a Slurm array, and a scheduler here; print the scheduler's address.
#
#   experiments/launchers/dask_slurm.sh JOBS [sbatch options]
#   python -m lossline.prepare --cluster=tcp://HOST:8786 --gin_file=…      # in another shell, on the same disk
#
# Needs: the [cluster] extra in an environment that all nodes see, and a checkout on a disk that they share. Each job has one worker
# process per core, because tokenizing holds Python's lock. The jobs end with Ctrl-C here.
#
# A preempted or failed job (--requeue) loses the units that it was working on; Dask gives them to other workers.
set -euo pipefail
if [ $# -lt 1 ]; then
  echo "usage: $0 JOBS [SBATCH_OPTION ...]" >&2
  exit 2
fi
jobs=$1
shift
address="tcp://$(hostname -f):8786"
python=$(command -v python)
array=$(sbatch --parsable --job-name=dask-worker --array="1-$jobs" --requeue --cpus-per-task=16 --mem=64G --time=12:00:00 "$@" --wrap \
  "exec $python -m distributed.cli.dask_worker $address --nworkers 16 --nthreads 1 --no-dashboard --death-timeout 300")
trap 'scancel "$array"' EXIT
echo "$address"
"$python" -m distributed.cli.dask_scheduler --port 8786 --no-dashboard
