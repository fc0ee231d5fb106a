package main

import (
	"os"
	"runtime/debug"
)

// gcPercent trades garbage collections for memory: the heap of an idle server is mostly long-lived caches, so that a
// smaller head-room costs little time. GOGC in the environment overrides it. See docs/benchmarks.md for the figures.
const gcPercent = 50

func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
