#!/usr/bin/env bash
# Checks the Kubernetes manifests against the schemas of Kubernetes, strictly: an unknown field is an error.
# The validator contains the schemas, so no cluster is needed. It has no schema for KEDA, and prints a warning for it.
set -euo pipefail
cd "$(dirname "$0")/.."

VALIDATE=1.37.0
CACHE=${DROPGATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dropgate}
home=$CACHE/kubernetes-validate-$VALIDATE

if [ ! -e "$home/whole" ]; then
  echo "installing kubernetes-validate $VALIDATE"
  rm -rf "$home"
  python3 -m venv "$home"
  "$home/bin/pip" install --quiet --disable-pip-version-check "kubernetes-validate==$VALIDATE"
  touch "$home/whole"
fi
"$home/bin/kubernetes-validate" --strict deploy/kubernetes/*.yaml
