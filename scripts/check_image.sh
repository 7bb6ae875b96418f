#!/usr/bin/env bash
# Builds the image, then runs it as a cluster would: no root, a read-only file system, one volume.
# check_image.sh [IMAGE | --environment]
#   IMAGE: one that is there already, instead of building it
#   --environment: only builds the layers of the base and the environment, which the next run takes;
#     exit code 75 where containers do not run, as inside some others
# By Docker where an engine runs; else by Podman, on a base from Debian's packages in place of
# python:3.12-slim (apt install podman runc mmdebstrap). The plan of models/, if there is one, is taken.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
  -h | --help)
    sed -n '2,8s/^# //p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac

MAX_MB=900
image=ocr-hpi:check target=()
case "${1:-}" in
  --environment) target=(--target environment) ;;
  ?*) image=$1 ;;
esac
name=ocr-hpi-check-$$
work=$(mktemp -d)
limits=(--ulimit nofile=4352 --ulimit nproc=4096)
engine=(docker) options=()
if ! docker info >/dev/null 2>&1; then
  # A container of a container: cgroups of version 1 and limits that cannot be raised, too.
  engine=(podman --log-level fatal --runtime runc --cgroup-manager cgroupfs)
  # pip's settings and the certificates of this machine are no part of the image.
  options=(--isolation chroot --format docker --build-arg BASE=localhost/ocr-hpi-base)
  [ ! -f /etc/pip.conf ] || options+=(--volume /etc/pip.conf:/etc/pip.conf:ro)
  options+=(--volume /etc/ssl/certs:/etc/ssl/certs:ro)
fi

cleanup() {
  "${engine[@]}" rm --force "$name" >/dev/null 2>&1 || true
  "${engine[@]}" volume rm --force "$name" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap cleanup EXIT

fail() {
  echo "check_image: $*" >&2
  "${engine[@]}" logs "$name" 2>&1 | tail -n 20 >&2 || true
  exit 1
}

build() { # ARGUMENT... of docker build
  if [ "${engine[0]}" = podman ] && ! podman image exists ocr-hpi-base; then
    mmdebstrap --quiet --variant=apt --include=python3,python3-venv bookworm "$work/base.tar"
    podman import --quiet "$work/base.tar" localhost/ocr-hpi-base >/dev/null
    rm "$work/base.tar"
  fi
  "${engine[@]}" build --quiet ${options[@]+"${options[@]}"} "$@" . >/dev/null
}

run() { # ARGUMENT... of docker run
  "${engine[@]}" run --name "$name" --network host --read-only --volume "$name:/data" \
    --cap-drop ALL --security-opt no-new-privileges "${limits[@]}" \
    --env OCR_HPI_PORT="$port" "$@"
}

inside() { "${engine[@]}" exec "$name" sh -c "$1"; }

stop() { # EXIT_CODE
  "${engine[@]}" stop --time 20 "$name" >/dev/null
  code=$("${engine[@]}" inspect --format '{{.State.ExitCode}}' "$name")
  [ "$code" = "$1" ] || fail "exit code $code after SIGTERM, in place of $1"
  "${engine[@]}" rm "$name" >/dev/null
}

wait_for() { # SECONDS COMMAND...
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$("${engine[@]}" inspect --format '{{.State.Running}}' "$name")" = true ] || fail "it has ended"
    [ "$SECONDS" -lt "$end" ] || fail "not within the time: $*"
    sleep 1
  done
}

if [ -n "${target[*]}" ]; then
  build "${target[@]}"
  if [ "${engine[0]}" = podman ] && ! "${engine[@]}" run --rm --network host \
    "${limits[@]}" localhost/ocr-hpi-base true 2>"$work/why"; then
    echo "check_image: SKIPPED: an image can be built here, and no container runs: $(cat "$work/why")" >&2
    exit 75
  fi
  exit
fi
[ -n "${1:-}" ] || build --tag "$image"
echo "built after $SECONDS s"
port=$(python3 -c "import socket; s = socket.socket(); s.bind(('', 0)); print(s.getsockname()[1])")
url=http://127.0.0.1:$port

size=$(($("${engine[@]}" image inspect --format '{{.Size}}' "$image") / 1000000))
echo "size: $size MB"
[ "$size" -le "$MAX_MB" ] || fail "the image has $size MB; at most $MAX_MB are allowed"

# All addresses, and no keys
run --rm "$image" 2>"$work/refused" && fail "it serves everyone without being told to"
grep -q -- --allow-anonymous "$work/refused" || fail "$(cat "$work/refused")"

# A first start: alive while it measures, and ended at once by a signal
run --detach "$image" --allow-anonymous >/dev/null
wait_for 30 curl --fail --silent "$url/health/live"
step() { curl --silent "$url/health/ready" | grep 'not ready yet: \['; }
wait_for 60 step
stop 143

# With a plan and a key
"${engine[@]}" run --rm --volume "$name:/data" --volume "$PWD/models/engines:/built:ro" \
  "${limits[@]}" --entrypoint sh "$image" -c 'cp -r /built/plans /data/models/engines/ || echo "no plan: it is measured"'
run --rm "$image" key check >"$work/keys" 2>"$work/key"
chmod 644 "$work/keys"
run --detach --volume "$work/keys:/run/secrets/keys:ro" --env OCR_HPI_API_KEYS_FILE=/run/secrets/keys \
  "$image" >/dev/null
wait_for 900 curl --fail --silent "$url/health/ready"
read_page() { curl --silent --form image=@docs/page.jpg "$@" "$url/ocr/v1/accurate"; }
read_page | grep -q unauthorized || fail "it answers without a key"
read_page --header "X-API-Key: $(sed -n 's/.*not shown again: //p' "$work/key")" | grep -q Riverton || fail "it does not read"

[ "$(inside 'id -u')" = 10001 ] || fail "it runs as another user: $(inside id)"
inside 'touch /app/x' 2>/dev/null && fail "it can write to /app"
inside 'command -v cc gcc g++ make' && fail "it has a compiler"
inside 'test -e /app/.venv-build || test -e /build' && fail "the environment of the conversion is inside"
[ "$(inside 'cat /proc/1/comm')" = tini ] || fail "no init"
mapfile -t check < <("${engine[@]}" image inspect --format '{{json .Config.Healthcheck.Test}}' "$image" |
  python3 -c 'import json, sys; print(*json.load(sys.stdin)[1:], sep="\n")')
"${engine[@]}" exec "$name" "${check[@]}" || fail "its health check fails"
stop 0
echo "the image is good, after $SECONDS s"
