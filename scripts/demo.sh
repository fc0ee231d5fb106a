#!/bin/sh
# Boots a cluster with bin/edgebox, runs the tutorial's web servers on it, and removes it again. See tests/demo.
set -eu
cd "$(dirname "$0")/.."
[ -x "${EDGEBOX_BIN:-bin/edgebox}" ] || { echo "demo: there is no bin/edgebox: run make build" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "demo: needs root, to make namespaces and cgroups" >&2; exit 1; }
CGO_ENABLED=0 exec go run -trimpath -buildvcs=false ./tests/demo
