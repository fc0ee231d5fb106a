package framework

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// newNetNS makes a network namespace that lives as long as the file is open or something else is in it.
func newNetNS() (*os.File, error) {
	var ns *os.File
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return ns, err
}

// inNetNS calls f on a thread that is in the network namespace.
func inNetNS(ns *os.File, f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		done <- f()
	}()
	return <-done
}

// netNS opens the host's network namespace.
func (h *Host) netNS() (*os.File, error) {
	return os.Open(fmt.Sprintf("/proc/%d/ns/net", h.init.Process.Pid))
}

// inNetwork calls f on a thread that is in the host's network namespace.
func (h *Host) inNetwork(f func() error) error {
	ns, err := h.netNS()
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	return inNetNS(ns, f)
}

// handleAt opens netlink in the network namespace that the file stands for.
func handleAt(ns *os.File) (*netlink.Handle, error) {
	if int(ns.Fd()) < 0 { // which the library takes for the thread's namespace
		return nil, fmt.Errorf("network namespace: %w", os.ErrClosed)
	}
	return netlink.NewHandleAt(netns.NsHandle(int(ns.Fd())), unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
}
