#!/usr/bin/env bash
# Everything that a GPU has to show, in at most nine minutes: bash benchmarks/gpu/run.sh [OUT]
#
# Prints tables and leaves them, with the trained networks, in OUT (default: results/gpu). It needs
# PyTorch and NumPy; packages that the machine lacks and cannot fetch are taken from wheels in the
# folder WHEELS (pip download --no-deps simpleitk nibabel ...). TINY=1 is a trial of the script itself
# on any machine, in a minute.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-results/gpu}
python=${PYTHON:-python3}
mkdir -p "$out"
export OMP_NUM_THREADS=1 MPLBACKEND=Agg PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    "$python" -m pip install --quiet --no-index --no-deps --target "$site" "$WHEELS"/*.whl
    export PYTHONPATH="$site:$PYTHONPATH"
fi

# Phantom people are made by the processor while the GPU is timed.
if [ -n "${TINY:-}" ]; then
    shape=(16 24 24) precisions=(float32)
    training=(--size 16 24 24 --people 2 --tested 2 --seconds 2 --preset small)
else
    shape=(80 192 192) precisions=(float32 bfloat16)
    training=(--size 80 192 192 --people 16 --tested 4 --seconds 200 --preset paper)
fi
nice "$python" -m benchmarks.gpu.training "${training[@]}" --out "$out" --only-people \
    > "$out/people.log" 2>&1 &
people=$!

exec > >(tee "$out/gpu.md")
if "$python" -c 'import pytest' 2> "$out/pytest.log"; then
    "$python" -m pytest -q -m gpu tests/unit/avsm/test_accelerator.py 2>&1 | tail -n 3
else
    echo "pytest is not installed: its tests were not run"
fi
for precision in "${precisions[@]}"; do
    echo && echo "## Steps in $precision"
    "$python" -m benchmarks.speed --shape "${shape[@]}" --precision "$precision" \
        --device auto --threads 1 ${TINY:+--repeats 1 --presets small}
done
wait "$people" || { cat "$out/people.log"; exit 1; }
echo && echo "## Training"
"$python" -m benchmarks.gpu.training "${training[@]}" --out "$out"
