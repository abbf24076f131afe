#!/usr/bin/env bash
# Check the operations on this GPU and measure how fast the models train on it, in less than 9 minutes.
#
#   experiments/benchmarks/gpu.sh [--wheels DIR] [--small]
#   LOSSLINE_DEVICE=cpu experiments/benchmarks/gpu.sh --small      the same script without a GPU
#
# The script runs from a plain copy of the repository with the Python in $PYTHON (default python3; 3.12 with jax, and with torch
# for that peer). It writes nothing outside $OUT (default ./gpu_results). --wheels gives a folder of wheels for packages that are
# not installed (flax, optax, gin-config, jax-linear-attention, equinox, jaxtyping, …); they are unpacked under $OUT, not
# installed. It first compares the operations with their references, then runs the throughput cases, each in its share of time.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
device=${LOSSLINE_DEVICE:-gpu}
wheels='' small=()
while [ $# -gt 0 ]; do
  case $1 in
    --wheels) wheels=${2:?--wheels needs a folder}; shift 2 ;;
    --small) small=(--small); shift ;;
    *) echo "usage: $0 [--wheels DIR] [--small]" >&2; exit 2 ;;
  esac
done
case $device in cpu | gpu) ;; *) echo "LOSSLINE_DEVICE = '$device': choose cpu or gpu" >&2; exit 2 ;; esac
OUT=${OUT:-$PWD/gpu_results}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
scratch=$OUT/.scratch
rm -rf "$scratch"
mkdir -p "$scratch/tmp"
trap 'rm -rf "$scratch"' EXIT
export TMPDIR=$scratch/tmp XDG_CACHE_HOME=$scratch/cache TORCHINDUCTOR_CACHE_DIR=$scratch/inductor TRITON_CACHE_DIR=$scratch/triton
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$PWD
if [ -n "$wheels" ]; then
  [ -d "$wheels" ] || { echo "--wheels $wheels: no such folder; give a folder of wheels" >&2; exit 2; }
  for wheel in "$wheels"/*.whl; do "$python" -m zipfile -e "$wheel" "$scratch/site"; done
  PYTHONPATH=$PYTHONPATH:$scratch/site
fi
if [ "$device" = cpu ]; then export JAX_PLATFORMS=cpu; fi
has() { "$python" -c "import $1" >"$scratch/import.log" 2>&1; }
for module in jax flax optax; do
  has "$module" || { tail -1 "$scratch/import.log" >&2; echo "no $module: install it, or give its wheel with --wheels" >&2; exit 2; }
done

status=0
echo "== operations against their references"
timeout 150 "$python" experiments/benchmarks/train_throughput_checks.py "${small[@]}" 2>"$OUT/checks.log" | tee "$OUT/checks.txt" || status=$?
[ "$status" = 0 ] || echo "checks: exit status $status (see $OUT/checks.log)"
if [ ${#small[@]} = 0 ] && has pytest; then
  echo "== tests of the operations"
  timeout 90 "$python" -m pytest tests/ops -q -x -m 'not slow' -p no:cacheprovider --basetemp="$scratch/pytest" >"$OUT/tests.txt" 2>&1 || echo "tests: exit status $? (124: time limit reached)"
  tail -3 "$OUT/tests.txt"
fi

echo "== throughput"
peers=()
if has torch; then peers+=(--peers_python "$python"); fi
if has jla; then peers+=(--jla_python "$python"); fi
left=$((520 - SECONDS))
"$python" experiments/benchmarks/train_throughput.py --device "$device" "${small[@]}" "${peers[@]}" --rounds 3 --seconds 2 \
  --budget_s "$left" --output "$OUT/train_throughput.json" 2>"$OUT/throughput.log" | tee "$OUT/train_throughput.txt"
exit "$status"
