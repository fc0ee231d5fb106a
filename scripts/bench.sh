#!/bin/sh
# Measures how fast and small $EDGEBOX_BIN, or bin/edgebox, is; arguments go to tests/bench. See docs/benchmarks.md.
set -eu
cd "$(dirname "$0")/.."
[ -x "${EDGEBOX_BIN:-bin/edgebox}" ] || { echo "bench: there is no bin/edgebox: run make build" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "bench: needs root, to make namespaces and cgroups" >&2; exit 1; }
CGO_ENABLED=0 exec go run -trimpath -buildvcs=false ./tests/bench "$@"
