#!/usr/bin/env bash
# Everything that needs a GPU, straight from the source tree: facts, GPU tests, CPU against GPU.
# Wants Python with CuPy, pytest, hypothesis, typer, rich, pydantic, pyarrow and safetensors; leaves
# what it finds as JSON under benchmarks/results/ (or $OUT).
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
results=${OUT:-benchmarks/results}
mkdir -p "$results"
failed=()

run() { echo "== $1"; shift; "$@" || failed+=("$*"); }

run "native kernels" "$python" setup.py -q build_ext --inplace
run "device" "$python" -m gpunet info
run "GPU tests" "$python" -m pytest -m gpu --require-gpu -p no:cacheprovider tests
run "CPU against GPU" "$python" scripts/agree.py --json "$results/agreement.json"

if [ ${#failed[@]} -eq 0 ]; then echo "gpu check: all held"; else
  printf 'gpu check: failed: %s\n' "${failed[@]}"; exit 6; fi
