#!/usr/bin/env bash
# Checks the alert rules with promtool and runs their tests, and checks every query of the dashboard. promtool comes out
# of Debian's package `prometheus`, without its service; PROMTOOL names another one.
set -euo pipefail
cd "$(dirname "$0")"

CACHE=${DROPGATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dropgate}
promtool=${PROMTOOL:-$CACHE/promtool/promtool}

if [ ! -x "$promtool" ]; then
  [ -z "${PROMTOOL:-}" ] || { echo "PROMTOOL $PROMTOOL is no program; expected the path of promtool" >&2; exit 1; }
  if command -v promtool >/dev/null; then
    promtool=$(command -v promtool)
  elif command -v apt-get >/dev/null; then
    echo "installing promtool"
    part=$CACHE/promtool.part
    rm -rf "$part" && mkdir -p "$part"
    # apt compares the package with the signed list of its archive. A new machine has no list yet.
    (
      cd "$part"
      apt-get download -qq prometheus 2>/dev/null || {
        if [ "$(id -u)" = 0 ]; then apt-get update -qq; else sudo -n apt-get update -qq; fi
        apt-get download -qq prometheus
      }
      dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 ./usr/bin/promtool
      rm prometheus_*.deb
    )
    rm -rf "$CACHE/promtool" && mv "$part" "$CACHE/promtool"
  else
    echo "promtool is not installed; install Prometheus, or set PROMTOOL to the path of promtool" >&2
    exit 1
  fi
fi

"$promtool" check config prometheus.yaml
"$promtool" test rules alerts.test.yaml

# Each query of the dashboard as a rule, with Grafana's variables replaced.
queries=$(mktemp --suffix=.yaml)
trap 'rm -f "$queries"' EXIT
node -e '
  const panels = JSON.parse(require("fs").readFileSync("dashboard.json")).panels
  const queries = panels.flatMap(panel => panel.targets ?? []).map(target => target.expr)
  const plain = query => query.replaceAll("$__rate_interval", "1m").replaceAll(/\$(job|campaign)/g, ".*")
  const rules = queries.map((query, n) => ({ record: `dashboard:query_${n}`, expr: plain(query) }))
  console.log(JSON.stringify({ groups: [{ name: "dashboard", rules }] }))
' >"$queries"
"$promtool" check rules "$queries"
