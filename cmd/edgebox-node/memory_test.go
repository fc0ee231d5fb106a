package main

import (
	"runtime"
	"slices"
	"testing"
	"time"
)

func TestPacer(t *testing.T) {
	var set []int
	now := time.Now()
	p := pacer{percent: idlePercent, last: now, set: func(percent int) { set = append(set, percent) }}
	for _, after := range []time.Duration{
		2 * time.Minute, 3 * time.Second, // idle
		400 * time.Millisecond, 100 * time.Millisecond, 3 * time.Second, 400 * time.Millisecond, // busy
		2 * time.Minute, 2 * time.Minute, // idle again
	} {
		now = now.Add(after)
		p.collected(now)
	}
	if want := []int{busyPercent, idlePercent}; !slices.Equal(set, want) {
		t.Errorf("set %v, want %v", set, want)
	}
}

func TestOnCollection(t *testing.T) {
	calls := make(chan struct{}, 10)
	onCollection(func() { calls <- struct{}{} })
	for range 3 {
		runtime.GC()
		<-calls
	}
}
