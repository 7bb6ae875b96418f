#!/usr/bin/env bash
# Installs the inference backends for a device from package indexes: install_hpi_deps.sh cpu|gpu [--tensorrt]
# gpu needs only a driver: CUDA and cuDNN come as wheels. --tensorrt adds TensorRT, whose libraries
# are only on NVIDIA's own index (https://pypi.nvidia.com).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage="usage: bash scripts/install_hpi_deps.sh cpu|gpu [--tensorrt]"
case "${1:-} ${2:-}" in
  "cpu " | "gpu " | "gpu --tensorrt") ;;
  "-h " | "--help ")
    show_header "${BASH_SOURCE[0]}"
    exit 0
    ;;
  *)
    say "$usage"
    exit 2
    ;;
esac
ensure_serving "$1"
if [ -n "${2:-}" ]; then
  say "installing TensorRT from https://pypi.nvidia.com (2 GB)"
  (cd "$ROOT" && .venv/bin/python -m pip install --disable-pip-version-check --no-input \
    --extra-index-url https://pypi.nvidia.com --editable ".[gpu,tensorrt]" >&2) || {
    say "TensorRT could not be installed, for pip's reason above. Everything else is ready; without" \
      "TensorRT, the GPU's engines are ONNX Runtime's with CUDA"
    exit 1
  }
fi
exec "$ROOT/.venv/bin/ocr-hpi" doctor
