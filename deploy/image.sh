#!/usr/bin/env bash
# Builds the issuer's image with docker or podman (`build`), or builds and tests it (`test`).
#   ENGINE      docker or podman; default: the one that is installed
#   IMAGE       the name of the image
#   RUST_IMAGE, BASE_IMAGE   replace those of the Dockerfile
# If no registry is reachable, `test` builds the base from Debian packages and uses the program in target/service of this
# checkout. Then it tests the last stage of the image, not the stage that compiles.
set -euo pipefail
cd "$(dirname "$0")/.."
IMAGE=${IMAGE:-localhost/dropgate-issuer:latest}
CACHE=${DROPGATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dropgate}
if [ -z "${ENGINE:-}" ]; then
  if docker info >/dev/null 2>&1; then ENGINE=docker
  elif command -v podman >/dev/null; then ENGINE=podman
  else echo "no container engine found; install docker or podman (Debian: apt-get install podman runc)" >&2; exit 1
  fi
fi
engine=("$ENGINE")
# Prefer runc: crun needs a newer kernel interface than some machines have.
if [ "$ENGINE" = podman ] && command -v runc >/dev/null; then engine+=(--runtime runc); fi

args=()
[ -z "${RUST_IMAGE:-}" ] || args+=(--build-arg "RUST_IMAGE=$RUST_IMAGE")
[ -z "${BASE_IMAGE:-}" ] || args+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")

# A base of this machine's Debian release: the program built here finds the same libraries in it.
offline_base() {
  local name=localhost/dropgate-base:offline suite root
  suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
  root=$CACHE/base-$suite
  if [ ! -d "$root" ]; then
    command -v debootstrap >/dev/null || { echo "no registry is reachable, and debootstrap is not installed (Debian: apt-get install debootstrap)" >&2; exit 1; }
    rm -rf "$root.part"
    debootstrap --variant=minbase --include=ca-certificates,libssl3,zlib1g "$suite" "$root.part" >"$CACHE/log/base.log"
    mv "$root.part" "$root"
  fi
  "${engine[@]}" image inspect "$name" >/dev/null 2>&1 || tar -C "$root" -c . | "${engine[@]}" import - "$name" >/dev/null
  mkdir -p target/image && strip -o target/image/issuer target/service/issuer
  args+=(--build-arg "BASE_IMAGE=$name" --build-arg PROGRAM=prebuilt)
}

build() {
  local network=()
  [ "$ENGINE" = docker ] || network=(--format docker --network host --ulimit nofile=4096:4096 --ulimit nproc=1000:1000)
  "${engine[@]}" build "${network[@]}" "${args[@]}" -f issuer/Dockerfile -t "$IMAGE" .
}

case ${1:-} in
  build) build ;;
  test)
    base=$(sed -n 's/^ARG BASE_IMAGE=//p' issuer/Dockerfile)
    if [ -z "${BASE_IMAGE:-}" ] && ! timeout 60 "${engine[@]}" pull -q "$base" >/dev/null 2>&1; then
      echo "no registry is reachable: the base is built from Debian packages, the program is taken from target/service"
      offline_base
    fi
    build
    IMAGE=$IMAGE ENGINE="${engine[*]}" cargo test --locked -p dropgate-tests --features containers --test image -- --nocapture
    ;;
  *) echo "usage: deploy/image.sh build|test" >&2; exit 2 ;;
esac
