package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"time"
)

// Garbage is collected when the heap has grown by a percentage of what is live, which for an idle server is mostly
// long-lived caches. A small one keeps an idle server small. A busy one would collect several times a second, for a third
// of its CPU, and gets more room while it is busy. GOGC in the environment replaces both. See docs/benchmarks.md.
const (
	idlePercent = 50
	busyPercent = 200

	// Collections closer together than busyInterval mean that the server is busy, those further apart than idleInterval
	// that it is not. The runtime collects every two minutes in any case.
	busyInterval = 500 * time.Millisecond
	idleInterval = 10 * time.Second
)

// afterBoot is how long after the boot its memory is settled.
const afterBoot = 20 * time.Second

// tuneMemory is for the boot, whose caches stay: with more garbage between them they would take more room for good.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(idlePercent)
	}
}

// settleMemory gives what the boot has used back to the kernel, and paces collections from then on.
func settleMemory() {
	time.AfterFunc(afterBoot, func() {
		debug.FreeOSMemory()
		if os.Getenv("GOGC") == "" {
			pace := pacer{percent: idlePercent, last: time.Now(), set: func(percent int) { debug.SetGCPercent(percent) }}
			onCollection(func() { pace.collected(time.Now()) })
		}
	})
}

// pacer chooses the percentage by the time between collections.
type pacer struct {
	percent int
	last    time.Time
	set     func(percent int)
}

func (p *pacer) collected(now time.Time) {
	since := now.Sub(p.last)
	p.last = now
	percent := p.percent
	switch {
	case since < busyInterval:
		percent = busyPercent
	case since > idleInterval:
		percent = idlePercent
	}
	if percent != p.percent {
		p.percent = percent
		p.set(percent)
	}
}

// onCollection calls f after each collection, one call at a time. It needs no timer: the finalizer of an object that
// nothing refers to runs then, and sets itself again.
func onCollection(f func()) {
	type sentinel struct{ _ [16]byte }
	var again func(*sentinel)
	again = func(s *sentinel) {
		f()
		runtime.SetFinalizer(s, again)
	}
	runtime.SetFinalizer(new(sentinel), again)
}
