#!/usr/bin/env bash
# Gather what a machine with a GPU and no network lacks, for scripts/gpu/run.sh: wheels for its Python, and MiniLM.
#
#   scripts/gpu/pack.sh --python 3.12 --have machine.txt     # machine.txt: `python -m pip freeze` of that machine
#
# The folder (default: build/gpu) is to be copied together with the repository; run.sh uses it. More: pack.sh --help
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$(command -v "$python")" ] || { echo "pack.sh: no Python at $python; run make install, or set PYTHON." >&2; exit 2; }
exec "$python" "$root/scripts/gpu/pack.py" "$@"
