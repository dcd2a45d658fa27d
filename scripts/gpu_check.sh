#!/usr/bin/env bash
# All that needs a GPU, straight from the source tree: GPU tests, CPU against GPU, the benchmark.
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

# Away from pyproject.toml, which an older setuptools could not read.
build_native() {
  local place; place=$(mktemp -d)
  cp --parents -r setup.py gpunet/kernels "$place"
  (cd "$place" && "$python" setup.py -q build_ext --inplace)
  cp "$place"/gpunet/kernels/_native*.so gpunet/kernels/
}

run "native kernels" build_native
run "device" "$python" -m gpunet info
run "GPU tests" "$python" -m pytest -m gpu --require-gpu -p no:cacheprovider tests
run "CPU against GPU" "$python" scripts/agree.py --json "$results/agreement.json"
run "benchmark" "$python" scripts/bench.py --device cuda --quick --json "$results/cuda.json"

if [ ${#failed[@]} -eq 0 ]; then echo "gpu check: all held"; else
  printf 'gpu check: failed: %s\n' "${failed[@]}"; exit 6; fi
