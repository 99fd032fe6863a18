#!/usr/bin/env bash
# Packs the built gate with all that Node needs to deploy it, and deploys the archive in a dry run, where nothing but Node
# can be found.
set -euo pipefail
cd "$(dirname "$0")"
target=$(cd .. && mkdir -p target && cd target && pwd)
name=dropgate-worker
folder=$target/$name

# The two configurations of wrangler say the same.
for text in "$(sed -n 's/^compatibility_date = //p' wrangler.toml)" "$(sed -n 's/^crons = //p' wrangler.toml)"; do
  [ -n "$text" ] && grep -qF "$text" dist/wrangler.jsonc || { echo "dist/wrangler.jsonc lacks $text of wrangler.toml" >&2; exit 1; }
done

rm -rf "$folder" && mkdir -p "$folder/build"
cp build/index.js build/index_bg.wasm "$folder/build/"
cp -r entry.mjs drops.mjs package.json package-lock.json public "$folder/"
cp -r dist/. "$folder/"
cp dist-readme.md "$folder/README.md"
cp -r ../docs/drop-page "$folder/example"
cp ../LICENSE-APACHE ../LICENSE-MIT "$folder/"
(cd "$folder" && find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum >SHA256SUMS)
# The same files make the same archive.
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -C "$target" -cf - "$name" | gzip -9n >"$folder.tar.gz"

tried=$(mktemp -d)
trap 'rm -rf "$tried"' EXIT
mkdir "$tried/bin"
for tool in node npm npx; do ln -s "$(command -v "$tool")" "$tried/bin/$tool"; done
tar -C "$tried" -xzf "$folder.tar.gz"
ln -s "$PWD/node_modules" "$tried/$name/node_modules"
cp "$tried/$name/.env.production.example" "$tried/$name/.env.production"
cp "$tried/$name"/example/* "$tried/$name/public/drops/"
(cd "$tried/$name" && env -i PATH="$tried/bin" HOME="$tried" CI=true WRANGLER_SEND_METRICS=false \
  node node_modules/wrangler/bin/wrangler.js deploy --dry-run --outdir out --secrets-file .env.production </dev/null) \
  | grep -E 'drop files|Total Upload|--dry-run'
[ -e "$tried/$name/public/drops/spring.html" ] || { echo "the previews of links are missing" >&2; exit 1; }
printf 'worker: %s, %d KB\n' "target/$name.tar.gz" "$((($(wc -c <"$folder.tar.gz") + 1023) / 1024))"
