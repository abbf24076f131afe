#!/usr/bin/env bash
#SBATCH --job-name=lossline
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#
# Run one lossline command on GPU nodes of a Slurm cluster, one process per GPU.
#
#   make .venv/.installed-gpu
#   sbatch --nodes=2 experiments/launchers/slurm.sh train --gin_file=my_run.gin --gin.train.root=/scratch/runs
#
# Needs: this checkout with its environment, and the root of the runs, on a file system that all nodes see; submit from the
#   checkout. Options of sbatch replace the lines above: one task per GPU (--ntasks-per-node equal to --gpus-per-node), because
#   JAX gives each task of Slurm the GPU of its local number.
# Does: `train`, `evaluate` and `score` find the other processes by themselves: the script binds `launch.how = "auto"`. Other
#   verbs run in one process (gpu.sh, or sbatch --wrap) and are refused.
# Time limit: 300 s before it (--signal), all processes save a checkpoint and stop after the same step; the job goes back into
#   the queue under its own number and continues from there.
# Preemption: Slurm sends SIGTERM, which saves a checkpoint if the partition's GraceTime is long enough, and queues the job again
#   (--requeue). It continues from the newest checkpoint. scancel does the same and ends the job; KillWait is its grace time.
set -euo pipefail
if [ $# -lt 1 ]; then
  echo "usage: sbatch [OPTION ...] $0 VERB [ARGUMENT ...]" >&2
  exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}"
if [ ! -x .venv/bin/python ]; then
  echo "$0: no .venv in $PWD. Submit from the checkout, after: make .venv/.installed-gpu" >&2
  exit 2
fi
verb=$1
shift
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

out_of_time=no
trap 'out_of_time=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1 # signals the processes, not this script
# Without the flag, a site may kill the last processes while they still end.
srun --kill-on-bad-exit=0 .venv/bin/python -m "lossline.$verb" "$@" &
status=0
wait $! || status=$?
while kill -0 $! 2>/dev/null; do # a signal ended the wait, not the command
  status=0
  wait $! || status=$?
done
if [ "$out_of_time" = yes ] && [ "$status" -ne 0 ]; then
  echo "$0: out of time; back into the queue" >&2
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
