package preflight

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNamespace runs f on a thread of its own in new namespaces (CLONE_NEW… flags), which end with it.
func inNamespace(flags int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil {
				done <- fmt.Errorf("panic: %v", v)
			}
		}()
		// Never unlocked, so that the runtime ends the thread with this goroutine instead of using it for others.
		runtime.LockOSThread()
		if err := unix.Unshare(flags); err != nil {
			done <- fmt.Errorf("make a namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}
