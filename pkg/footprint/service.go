package footprint

import (
	"context"
	"errors"
)

// services are known to an init system that runs, and would be started again by it.
func (s *survey) services() ([]Item, error) {
	if !s.installedHere() {
		return nil, nil
	}
	var items []Item
	if s.exists("/run/systemd/system") && s.exists(systemdUnit) {
		items = append(items, Item{Kind: Service, Name: "edgebox.service", Detail: "systemd", remove: func(ctx context.Context) error {
			return s.run(ctx, "systemctl", "disable", "--now", "edgebox.service")
		}})
	}
	if s.exists("/run/openrc") && s.exists(openrcUnit) {
		items = append(items, Item{Kind: Service, Name: "edgebox", Detail: "OpenRC", remove: func(ctx context.Context) error {
			stop := s.run(ctx, "rc-service", "--ifstarted", "edgebox", "stop")
			if len(s.glob("/etc/runlevels/*/edgebox")) == 0 {
				return stop
			}
			return errors.Join(stop, s.run(ctx, "rc-update", "--all", "del", "edgebox"))
		}})
	}
	return items, nil
}

// forgetService lets systemd see that the unit's file is gone.
func (h *host) forgetService(ctx context.Context) {
	if h.exists("/run/systemd/system") && !h.exists(systemdUnit) {
		_ = h.run(ctx, "systemctl", "daemon-reload")
	}
}
