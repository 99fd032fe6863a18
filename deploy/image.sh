#!/usr/bin/env bash
# Builds the issuer's image with docker or podman (`build`), or builds and tries it (`test`).
#   ENGINE      docker, podman, or the one that is there
#   IMAGE       the name it gets
#   RUST_IMAGE  BASE_IMAGE   instead of the Dockerfile's
# Where no registry can be reached, `test` makes a base out of Debian packages and takes the program of this checkout's
# target/service: the image's last stage is tried then, its compiling stage is not.
set -euo pipefail
cd "$(dirname "$0")/.."
IMAGE=${IMAGE:-localhost/dropgate-issuer:latest}
CACHE=${DROPGATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dropgate}
if [ -z "${ENGINE:-}" ]; then
  if docker info >/dev/null 2>&1; then ENGINE=docker
  elif command -v podman >/dev/null; then ENGINE=podman
  else echo "there is neither a docker engine nor podman (Debian: apt-get install podman runc)" >&2; exit 1
  fi
fi
engine=("$ENGINE")
# runc where it is: crun wants a newer kernel interface than some machines have.
if [ "$ENGINE" = podman ] && command -v runc >/dev/null; then engine+=(--runtime runc); fi

args=()
[ -z "${RUST_IMAGE:-}" ] || args+=(--build-arg "RUST_IMAGE=$RUST_IMAGE")
[ -z "${BASE_IMAGE:-}" ] || args+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")

# A base of this machine's own release, so that the program built here finds its libraries there.
offline_base() {
  local name=localhost/dropgate-base:offline suite root
  suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
  root=$CACHE/base-$suite
  if [ ! -d "$root" ]; then
    command -v debootstrap >/dev/null || { echo "no registry can be reached, and there is no debootstrap" >&2; exit 1; }
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
      echo "no registry can be reached: the base comes from Debian's packages, the program from target/service"
      offline_base
    fi
    build
    IMAGE=$IMAGE ENGINE="${engine[*]}" cargo test --locked -p dropgate-tests --features containers --test image -- --nocapture
    ;;
  *) echo "usage: deploy/image.sh build|test" >&2; exit 2 ;;
esac
