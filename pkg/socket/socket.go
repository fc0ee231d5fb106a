// Package socket listens on unix sockets that only the user of the process can open. Standard library only.
package socket

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// Listen makes a unix socket at path with mode 0600, in the place of one that an earlier process left there. The mode is
// right from the first moment on, whatever the umask. The caller must know that nobody else listens at path.
func Listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// bind(2) gives the file the mode of the socket, less the umask; a chmod after it would come too late.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if ctlErr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); ctlErr != nil {
			return ctlErr
		}
		return err
	}}
	return lc.Listen(context.Background(), "unix", path)
}
