package main

import (
	"log/slog"
	"net"
	"os"
)

// newNotifier returns a function that tells systemd, if it started us, about our state. See sd_notify(3). The variables
// are removed, since the kubelet would otherwise report readiness in our name, as would every child.
func newNotifier() func(state string) {
	addr := os.Getenv("NOTIFY_SOCKET")
	for _, v := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		_ = os.Unsetenv(v)
	}
	if addr == "" {
		return func(string) {}
	}
	return func(state string) {
		conn, err := net.Dial("unixgram", addr)
		if err != nil {
			slog.Warn("cannot reach systemd", "err", err)
			return
		}
		defer conn.Close()
		if _, err := conn.Write([]byte(state)); err != nil {
			slog.Warn("cannot notify systemd", "err", err)
		}
	}
}
