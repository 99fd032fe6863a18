#!/usr/bin/env bash
# The effect of a panic in one request on the others, with panic=abort and with panic=unwind: builds the gate twice with
# a request that panics, and runs both on workerd. The result is in docs/adr/0004.
set -euo pipefail
cd "$(dirname "$0")"
trial=$(mktemp -d)
trap 'git -C .. worktree remove --force "$trial/repo"; rm -rf "$trial"' EXIT
git -C .. worktree add -q --detach "$trial/repo" HEAD
ln -s "$PWD/node_modules" "$trial/repo/edge/node_modules"
sed -i 's/^default = \[\]/default = ["panic-trial"]/' "$trial/repo/edge/Cargo.toml"
for kind in abort unwind; do
  [ "$kind" = unwind ] || sed -i.bak 's/ --panic-unwind$//' "$trial/repo/edge/build.sh"
  echo "building with panic=$kind"
  "$trial/repo/edge/build.sh" >"$trial/log" 2>&1 || { tail -20 "$trial/log" >&2; exit 1; }
  [ "$kind" = unwind ] || mv "$trial/repo/edge/build.sh.bak" "$trial/repo/edge/build.sh"
  printf '%s: %d bytes gzipped\n' "$kind" "$(cat "$trial/repo/edge/build/index_bg.wasm" "$trial/repo/edge/build/index.js" | gzip -9c | wc -c)"
  node panic-trial.mjs "$trial/repo/edge/build" 2>"$trial/log"
done
