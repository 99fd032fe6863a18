#!/usr/bin/env bash
# Checks the drop files, and compiles the gate to build/. wrangler calls it; with EDGE_PREBUILT=1 it uses the existing build.
set -euo pipefail
cd "$(dirname "$0")"
NODE_NO_WARNINGS=1 node drops.mjs
[ "${EDGE_PREBUILT:-}" != 1 ] || exit 0

CACHE=${DROPGATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dropgate}
for tool in "$CACHE"/worker-build-*/bin "$CACHE"/wasm-bindgen-cli-*/bin; do
  PATH=$tool:$PATH
done
for tool in worker-build wasm-bindgen node_modules/.bin/wasm-opt node_modules/.bin/esbuild; do
  command -v "$tool" >/dev/null || { echo "$tool is missing: run 'make setup'" >&2; exit 1; }
done
# worker-build downloads its helpers unless they are named. With --panic-unwind a panic ends only the request in which it
# happens (docs/adr/0004).
PATH=$PWD/toolchain:$PATH \
  WASM_BINDGEN_BIN=$(command -v wasm-bindgen) \
  WASM_OPT_BIN=$PWD/node_modules/.bin/wasm-opt \
  ESBUILD_BIN=$PWD/node_modules/.bin/esbuild \
  worker-build --release --panic-unwind
# Function names serve stack traces only, and are a tenth of the module. A second pass of the optimiser saves 7 KB gzipped.
# The features are those that rustc and wasm-bindgen use; with all features workerd cannot read the module.
node_modules/.bin/wasm-opt build/index_bg.wasm -O3 --enable-bulk-memory --enable-multivalue --enable-mutable-globals \
  --enable-nontrapping-float-to-int --enable-reference-types --enable-sign-ext --enable-exception-handling \
  --strip-debug --strip-producers -o build/stripped.wasm
mv build/stripped.wasm build/index_bg.wasm
