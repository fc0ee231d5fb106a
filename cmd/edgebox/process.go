package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockHolder returns the pid of the node that runs on the data dir of this lock file, 0 if none does.
func lockHolder(path string) (pid int, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	switch err := unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB); {
	case err == nil: // closing the file gives it back
		return 0, nil
	case !errors.Is(err, unix.EWOULDBLOCK):
		return 0, fmt.Errorf("look at lock %s: %w", path, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil || pid <= 1 {
		return 0, fmt.Errorf("%s is locked, but does not say by which pid", path)
	}
	return pid, nil
}

// terminate asks a process to end and waits for it, calling tick now and then. It reports whether the process ended
// within limit.
func terminate(pid int, limit time.Duration, tick func(waited time.Duration)) (ended bool, err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("open process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, fmt.Errorf("stop process %d: %w", pid, err)
	}
	start := time.Now()
	for time.Since(start) < limit {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 250)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, fmt.Errorf("wait for process %d: %w", pid, err)
		}
		if n > 0 {
			return true, nil
		}
		tick(time.Since(start))
	}
	return false, nil
}
