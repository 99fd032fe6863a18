#!/usr/bin/env bash
# Compiles the gate to build/worker. wrangler calls it; EDGE_PREBUILT=1 says that it is built already.
set -euo pipefail
cd "$(dirname "$0")"
[ "${EDGE_PREBUILT:-}" != 1 ] || exit 0

CACHE=${DROPGATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dropgate}
for tool in "$CACHE"/worker-build-*/bin "$CACHE"/wasm-bindgen-cli-*/bin; do
  PATH=$tool:$PATH
done
for tool in worker-build wasm-bindgen node_modules/.bin/wasm-opt node_modules/.bin/esbuild; do
  command -v "$tool" >/dev/null || { echo "there is no $tool: run 'make setup' first" >&2; exit 1; }
done
# worker-build fetches its helpers itself unless they are named. With --panic-unwind a panic ends the request
# that it happens in, and no other (docs/adr/0004).
PATH=$PWD/toolchain:$PATH \
  WASM_BINDGEN_BIN=$(command -v wasm-bindgen) \
  WASM_OPT_BIN=$PWD/node_modules/.bin/wasm-opt \
  ESBUILD_BIN=$PWD/node_modules/.bin/esbuild \
  worker-build --release --panic-unwind
# Names of functions are for stack traces only, and a tenth of what visitors' data centres load.
# The features are those that rustc and wasm-bindgen use; with all of them on, workerd cannot read the module.
node_modules/.bin/wasm-opt build/index_bg.wasm --enable-bulk-memory --enable-multivalue --enable-mutable-globals \
  --enable-nontrapping-float-to-int --enable-reference-types --enable-sign-ext --enable-exception-handling \
  --strip-debug --strip-producers -o build/stripped.wasm
mv build/stripped.wasm build/index_bg.wasm
