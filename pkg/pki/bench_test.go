package pki

import (
	"testing"
	"time"
)

// What a boot pays for when nothing has to be renewed, and what Renewer pays once an hour.
func BenchmarkEnsureNothingToDo(b *testing.B) {
	s := New(b.TempDir())
	spec := Spec{Leaves: append(ControlPlaneLeaves(testHost), NodeLeaves(testHost)...)}
	if _, err := s.Ensure(spec); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if r, err := s.Ensure(spec); err != nil || r.Changes != nil {
			b.Fatal(r, err)
		}
	}
}

// What the first boot pays for, with the disk's fsyncs.
func BenchmarkEnsureFresh(b *testing.B) {
	for b.Loop() {
		s := New(b.TempDir())
		start := time.Now()
		if _, err := s.Ensure(Spec{Leaves: append(ControlPlaneLeaves(testHost), NodeLeaves(testHost)...)}); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms/boot")
	}
}
