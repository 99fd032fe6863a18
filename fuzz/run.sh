#!/usr/bin/env bash
# Fuzzes every target for its share of MINUTES. libFuzzer needs coverage counters, which stable rustc can insert; only
# sanitizers would need nightly.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${MINUTES:-1}
host=$(rustc -vV | sed -n 's/^host: //p')
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks"
RUSTFLAGS="$flags" cargo build --quiet --locked --release --config 'profile.release.lto=false' \
  --config 'profile.release.opt-level=2' --config 'profile.release.panic="unwind"' --target "$host" \
  --target-dir target/fuzz -p dropgate-fuzz --features libfuzzer --bin dropgate-fuzz
targets=(fuzz/corpus/*/)
seconds=$(awk -v m="$minutes" -v n="${#targets[@]}" 'BEGIN { s = int(m * 60 / n); print (s < 1) ? 1 : s }')
runs=0
for folder in "${targets[@]}"; do
  target=$(basename "$folder")
  found=target/fuzz/corpus/$target
  crashes=target/fuzz/crashes/$target/
  mkdir -p "$found" "$crashes"
  log=target/fuzz/$target.log
  if ! FUZZ_TARGET=$target "target/fuzz/$host/release/dropgate-fuzz" -max_total_time="$seconds" -timeout=5 -max_len=4096 \
    -print_final_stats=1 -artifact_prefix="$crashes" "$found" "$folder" >"$log" 2>&1; then
    tail -20 "$log"
    echo "fuzz: $target failed; inputs in $crashes, log in $log. Add the input to $folder with the repair."
    exit 1
  fi
  count=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  edges=$(grep -o 'cov: [0-9]*' "$log" | tail -1 | grep -o '[0-9]*')
  runs=$((runs + count))
  printf '  %-12s %9s runs  %6s edges\n' "$target" "$count" "$edges"
done
echo "fuzz: $minutes minutes, ${#targets[@]} targets, $runs runs, 0 failures"
