#!/usr/bin/env bash
# Everything a change must pass, from a fresh clone: environment, lint, types, layers, shell, tests.
# Arguments go to pytest. VENV names another environment than .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
EXTRA='test'
. launch/environment.sh

say() { printf '\n== %s\n' "$*"; }
say ruff && ruff format --check . && ruff check .
say mypy && mypy
say import-linter && lint-imports --no-logo 
say shellcheck && git ls-files '*.sh' '*.sbatch' .ci/run | xargs shellcheck -x
say pytest
workers=$(($(nproc) + 1))  # many tests wait for processes; asked before nproc heeds the next line
export OMP_NUM_THREADS=1   # one process per core, one thread each
unset PYTHONDONTWRITEBYTECODE # processes that tests start need not compile the package anew
# A file stays on one worker: what its tests share (runs, jobs, processes) is made once.
exec python -m pytest -n "$workers" --dist loadfile --no-loadscope-reorder "$@"
