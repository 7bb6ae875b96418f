#!/usr/bin/env bash
# The inference backends for a device, from package indexes alone: install_hpi_deps.sh cpu|gpu
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case "${1:-}" in
  cpu | gpu) ;;
  -h | --help)
    echo "usage: bash scripts/install_hpi_deps.sh cpu|gpu"
    exit 0
    ;;
  *)
    say "usage: bash scripts/install_hpi_deps.sh cpu|gpu"
    exit 2
    ;;
esac
ensure_serving "$1"
exec "$ROOT/.venv/bin/ocr-hpi" doctor
