#!/usr/bin/env bash
# Pins every package that the scripts install, with hashes: writes requirements/*.txt from setup.cfg.
# Run it when setup.cfg changes or to take newer releases; commit the result. Needs uv (PyPI).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
  -h | --help)
    sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac
command -v uv >/dev/null || {
  echo "uv is needed: python3 -m pip install uv" >&2
  exit 1
}

lock() { # FILE PYTHON EXTRA...
  local file=$1 python=$2 extras=()
  shift 2
  for extra in "$@"; do extras+=(--extra "$extra"); done
  # Universal: one file for every platform and for Python from this version on.
  uv pip compile --quiet --universal --generate-hashes --python-version "$python" \
    --no-emit-index-url --no-annotate --no-header --constraint requirements/constraints.in \
    "${extras[@]}" --output-file "requirements/$file" setup.cfg requirements/build-system.in
  echo "requirements/$file: $(grep -c '==' "requirements/$file") packages" >&2
}

lock cpu.txt 3.11 cpu
lock gpu.txt 3.11 gpu
lock build.txt 3.11 build
lock paddlex.txt 3.11 paddlex
lock mcp.txt 3.11 mcp
lock dev.txt 3.11 cpu dev benchmark
