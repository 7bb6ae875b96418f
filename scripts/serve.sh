#!/usr/bin/env bash
# From a fresh machine to a server: environment, models, engines, then Gunicorn in the foreground.
# serve.sh [--from-bundle FILE] [options of `ocr-hpi serve`]. A second start skips what has been done.
# --from-bundle: takes everything from FILE, which `ocr-hpi bundle` made on another machine; needs no network.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Wrong options are reported before anything is installed; `ocr-hpi serve --build` then checks all of
# them before it fetches or builds anything.
read_options() {
  local flag value words chosen=() chosen_shadows=()
  IFS=, read -ra pipelines <<<"${OCR_HPI_PIPELINE:-}"
  IFS=, read -ra shadows <<<"${OCR_HPI_SHADOW:-}"
  threads=${OCR_HPI_THREADS:-} workers=${OCR_HPI_WORKERS:-}
  host=${OCR_HPI_HOST:-127.0.0.1} port=${OCR_HPI_PORT:-8868} keys=${OCR_HPI_API_KEYS_FILE:-}
  bundle='' models=${OCR_HPI_MODELS:-models} options=()
  while [ $# -gt 0 ]; do
    flag=${1%%=*} value='' words=("$1")
    case $flag in
      --allow-cpu-fallback | --allow-anonymous | --build | --check | --debug) ;;
      --host | --port | --pipeline | --shadow | --shadow-share | --device | --workers | --threads | \
        --memory | --max-body-mb | --max-pixels | --max-pages | --queue | --timeout | --api-keys-file | \
        --allow-url-hosts | --allow-origin | --models | --from-bundle | --pidfile | --spool | --spool-mb | \
        --spool-hours)
        case $1 in
          *=*) value=${1#*=} ;;
          *) [ $# -gt 1 ] && value=$2 && words+=("$2") && shift || usage_error "$flag needs a value; see --help" ;;
        esac
        ;;
      *) usage_error "$1: no option of serve.sh; see --help" ;;
    esac
    case $flag in
      --pipeline) chosen+=("$value") ;;
      --shadow) chosen_shadows+=("$value") ;;
      --threads) threads=$value ;;
      --workers) workers=$value ;;
      --host) host=$value ;;
      --port) port=$value ;;
      --api-keys-file) keys=$value ;;
      --models) models=$value ;;
      --from-bundle) bundle=$value words=() ;;
    esac
    options+=(${words[@]+"${words[@]}"})
    shift
  done
  [ ${#chosen[@]} -eq 0 ] || pipelines=("${chosen[@]}")
  [ ${#chosen_shadows[@]} -eq 0 ] || shadows=("${chosen_shadows[@]}")
}

check_options() {
  local value
  yamls=()
  for value in ${pipelines[@]+"${pipelines[@]}"} ${shadows[@]+"${shadows[@]}"}; do
    [[ $value == ?*=?* ]] ||
      usage_error "'$value' is not NAME=YAML, for example accurate=configs/PP-OCRv4_mobile.yaml"
    yamls+=("${value#*=}")
  done
  check_yamls ${yamls[@]+"${yamls[@]}"}
  for value in "--port $port" "--threads ${threads:-1}" "--workers ${workers:-1}"; do
    [[ ${value#* } =~ ^[0-9]{1,5}$ ]] || usage_error "$value: not a number"
  done
  [ "$((10#$port))" -le 65535 ] || usage_error "--port $port: the highest is 65535"
  [ -z "$keys" ] || (cd "$ROOT" && [ -r "$keys" ]) || usage_error "--api-keys-file $keys: cannot be read"
  [ -z "$bundle" ] || (cd "$ROOT" && [ -r "$bundle" ]) || usage_error "--from-bundle $bundle: cannot be read"
}

unpack_bundle() ( # in a shell of its own, whose end removes the wheels
  cd "$ROOT"
  wheels=$(mktemp -d)
  trap 'rm -rf "$wheels"' EXIT
  read -r extra version system machine < <(tar -xOf "$bundle" bundle.txt) ||
    usage_error "--from-bundle $bundle: no file of \`ocr-hpi bundle\`"
  [ "$system $machine" = "$(uname -s) $(uname -m)" ] ||
    usage_error "--from-bundle $bundle: is for $system $machine, and this is $(uname -s) $(uname -m)"
  PYTHON=$(find_python "$version" "3.$((${version#3.} + 1))" "${PYTHON:-}" python3 "python$version") ||
    usage_error "--from-bundle $bundle: needs Python $version, and none was found; install it, or name it:" \
      "PYTHON=/path/to/python$version"
  mkdir -p "$models"
  tar -xf "$bundle" -C "$models" --strip-components 1 models
  is_made .venv "$extra" && return
  tar -xf "$bundle" -C "$wheels" --strip-components 1 wheels ||
    usage_error "--from-bundle $bundle: has no wheels; make it without --no-wheels"
  export PYTHON PIP_NO_INDEX=1 PIP_FIND_LINKS=$wheels
  ensure_serving "$extra"
)

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
[ -z "$bundle" ] || unpack_bundle
ensure_serving
cd "$ROOT"
export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.hugetlb=1} # see docs/operating.md, Memory
exec .venv/bin/ocr-hpi serve --build ${options[@]+"${options[@]}"}
