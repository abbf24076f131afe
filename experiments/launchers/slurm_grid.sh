#!/usr/bin/env bash
# Train the grid of a study as Slurm jobs, then measure and fit in a last job.
#
#   experiments/launchers/slurm_grid.sh my_study.gin NAME [sbatch options of the last job]
#
# NAME is the study.name of the gin file; the jobs of the trainings have it too. Needs: a login node, a checkout on a disk that
# all nodes share, the [cluster] extra, and `study.slurm = @slurm()` in the gin file (docs/guides/grids.md). Only what is missing
# is submitted, so run it again after a failure.
#
# A preemption or the time limit: each training saves a checkpoint, its job is queued again and continues. The last job waits
# until no job of this name is left; a training that failed is tried once more there, and says why if it fails again.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: $0 STUDY.gin NAME [SBATCH_OPTION ...]" >&2
  exit 2
fi
gin_file=$1
name=$2
shift 2
python -m lossline.study --gin_file="$gin_file" --submit=slurm
exec sbatch --job-name="$name" --dependency=singleton "$@" --wrap "python -m lossline.study --gin_file='$gin_file'"
