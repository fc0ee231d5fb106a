package framework

import (
	"testing"
	"time"
)

// Eventually repeats check until it returns nil, and fails the test with check's last error when that takes longer
// than timeout. Timeouts should be generous: only failures wait for them.
func Eventually(t testing.TB, timeout time.Duration, check func() error) {
	t.Helper()
	pause := 50 * time.Millisecond
	for deadline := time.Now().Add(timeout); ; {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", timeout, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("test has ended: %v", err)
		case <-time.After(pause):
		}
		pause = min(2*pause, 500*time.Millisecond)
	}
}
