#!/usr/bin/env bash
# From a fresh machine to a server: environment, models, engines, then Gunicorn in the foreground.
# serve.sh [options of `ocr-hpi serve`]. A second start skips what has been done.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# What can be told to be wrong is told before anything is installed; `ocr-hpi serve --build` then looks
# at all of it before it fetches or builds anything.
read_options() {
  local flag value chosen=()
  IFS=, read -ra pipelines <<<"${OCR_HPI_PIPELINE:-}"
  threads=${OCR_HPI_THREADS:-} workers=${OCR_HPI_WORKERS:-}
  host=${OCR_HPI_HOST:-127.0.0.1} port=${OCR_HPI_PORT:-8868} keys=${OCR_HPI_API_KEYS_FILE:-}
  while [ $# -gt 0 ]; do
    flag=${1%%=*} value=
    case $flag in
      --allow-cpu-fallback | --allow-anonymous | --build | --check | --debug) ;;
      --host | --port | --pipeline | --device | --workers | --threads | --max-body-mb | --max-pixels | \
        --max-pages | --queue | --timeout | --api-keys-file | --allow-url-hosts | --allow-origin | \
        --models | --pidfile | --spool | --spool-mb | --spool-hours)
        case $1 in
          *=*) value=${1#*=} ;;
          *) [ $# -gt 1 ] && value=$2 && shift || usage_error "$flag needs a value; see --help" ;;
        esac
        ;;
      *) usage_error "$1: no option of serve.sh; see --help" ;;
    esac
    case $flag in
      --pipeline) chosen+=("$value") ;;
      --threads) threads=$value ;;
      --workers) workers=$value ;;
      --host) host=$value ;;
      --port) port=$value ;;
      --api-keys-file) keys=$value ;;
    esac
    shift
  done
  [ ${#chosen[@]} -eq 0 ] || pipelines=("${chosen[@]}")
}

check_options() {
  local value
  yamls=()
  for value in ${pipelines[@]+"${pipelines[@]}"}; do
    [[ $value == ?*=?* ]] ||
      usage_error "--pipeline '$value' is not NAME=YAML, for example accurate=configs/PP-OCRv4_mobile.yaml"
    yamls+=("${value#*=}")
  done
  check_yamls ${yamls[@]+"${yamls[@]}"}
  for value in "--port $port" "--threads ${threads:-1}" "--workers ${workers:-1}"; do
    [[ ${value#* } =~ ^[0-9]{1,5}$ ]] || usage_error "$value: not a number"
  done
  [ "$((10#$port))" -le 65535 ] || usage_error "--port $port: the highest is 65535"
  [ -z "$keys" ] || (cd "$ROOT" && [ -r "$keys" ]) || usage_error "--api-keys-file $keys: cannot be read"
}

check_port() { # as the server will take it
  "$(base_python)" - "$host" "$port" <<'PYTHON'
import socket, sys

host, port = sys.argv[1], int(sys.argv[2])
try:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
except OSError as error:
    sys.exit(f"Error: cannot listen on {host} port {port}: {error.strerror}; choose with --host and --port")
PYTHON
}

is_help "$@" && show_help "${BASH_SOURCE[0]}" "$ROOT/.venv/bin/ocr-hpi" serve
read_options "$@"
check_options
is_made "$ROOT/.venv" "$(serving_extra)" || check_port
ensure_serving
cd "$ROOT"
exec .venv/bin/ocr-hpi serve --build "$@"
