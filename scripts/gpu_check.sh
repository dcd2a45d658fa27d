#!/usr/bin/env bash
# All that needs a GPU, straight from the source tree, in under 8 minutes: GPU tests, 200 steps on CPU
# and GPU, speeds, the benchmark; a short table comes last.
# Wants Python with CuPy, pytest, hypothesis, typer, rich, pydantic, pyarrow and safetensors, and for
# the benchmark PyTorch and JAX; wheels of what is missing may lie in wheels/ (or $WHEELS). Leaves what
# it finds as JSON under benchmarks/results/ (or $OUT). Seconds of each part, at most: $LIMITS; of all:
# $MOST. What the benchmark is told more: $BENCH, such as "--images FOLDER --without torch"; the tests:
# PYTEST_ADDOPTS.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
results=${OUT:-benchmarks/results}
wheels=${WHEELS:-wheels}
read -r tests_limit agree_limit speed_limit bench_limit <<< "${LIMITS:-190 90 30 180}"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$results"
stages="$scratch/stages"
: > "$stages"

# What is here already stays as it is; nothing is fetched, nothing is written outside of $scratch.
add_wheels() {
  local wheel name
  for wheel in "$wheels"/*.whl; do
    [ -e "$wheel" ] || continue
    name=$(basename "$wheel"); name=${name%%-*}
    "$python" -c "from importlib.metadata import version; version('$name')" 2> /dev/null ||
      "$python" -m pip install -q --no-index --no-deps --no-warn-script-location \
        --target "$scratch/packages" "$wheel" || echo "gpu check: $wheel does not fit"
  done
}

# stage SECONDS NAME COMMAND...: run it, in what is left of the time for all; note how it ended.
stage() {
  local limit=$1 name=$2 began=$SECONDS code=0 left=$((${MOST:-450} - SECONDS)); shift 2
  [ "$limit" -le "$left" ] || limit=$((left > 1 ? left : 1))
  echo "== $name"
  timeout --kill-after=10 "$limit" "$@" 2>&1 | tee "$scratch/$name.log"
  code=${PIPESTATUS[0]}
  printf '%s\t%s\t%s\t%s\n' "$name" "$code" $((SECONDS - began)) "$limit" >> "$stages"
}

# Away from pyproject.toml, which an older setuptools could not read. A library that a process has
# loaded is replaced, never written over: that would crash the process.
build_native() {
  local place="$scratch/native" built; mkdir -p "$place"
  cp --parents -r setup.py gpunet/kernels "$place"
  rm -f "$place"/gpunet/kernels/_native*.so
  (cd "$place" && timeout 90 "$python" setup.py -q build_ext --inplace) > "$scratch/native.log" 2>&1
  for built in "$place"/gpunet/kernels/_native*.so; do
    [ -e "$built" ] || { echo "gpu check: no native kernels"; tail -3 "$scratch/native.log"; return; }
    cp --remove-destination "$built" gpunet/kernels/
  done
}

add_wheels
export PYTHONPATH="$PWD:$scratch/packages${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
build_native
# NVRTC takes most of the tests' time, which the cores share where pytest-xdist is there. Where it
# is not, what nothing else shows of a GPU's kernels comes first.
if "$python" -c "import xdist" 2> /dev/null; then
  export PYTEST_ADDOPTS="-n $(($(nproc) * 3 / 4)) ${PYTEST_ADDOPTS:-}"
fi
stage 30 device "$python" -m gpunet info
stage "$tests_limit" tests "$python" -m pytest -m gpu --require-gpu -p no:cacheprovider \
  tests/test_persistent.py tests/test_cuda_graphs.py tests/test_*.py
stage "$agree_limit" agreement "$python" scripts/agree.py --json "$results/agreement.json"
stage "$speed_limit" speed sh -c '"$0" -m gpunet info --bench --json > "$1"' \
  "$python" "$results/speed.json"
stage "$bench_limit" benchmark "$python" scripts/bench.py --device cuda --quick \
  --json "$results/cuda.json" ${BENCH:-}
"$python" scripts/gpu_table.py "$stages" "$scratch" "$results"
