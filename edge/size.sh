#!/usr/bin/env bash
# Fails if the worker exceeds its budgets of size and start-up time, or if a dry run of wrangler fails.
set -euo pipefail
cd "$(dirname "$0")"
BUDGET_KB=250

bytes=$(cat build/index_bg.wasm build/index.js entry.mjs | gzip -9c | wc -c)
printf 'worker: %d KB gzipped, budget %d KB\n' $(((bytes + 1023) / 1024)) "$BUDGET_KB"
[ "$bytes" -le $((BUDGET_KB * 1024)) ] || { echo "the worker exceeds its budget" >&2; exit 1; }

node startup.mjs || { echo "the worker starts too slowly" >&2; exit 1; }

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for environment in staging production; do
  EDGE_PREBUILT=1 WRANGLER_SEND_METRICS=false CI=true node_modules/.bin/wrangler deploy --dry-run \
    --env "$environment" --outdir "$out/$environment" </dev/null | grep -E 'Total Upload|--dry-run'
done
