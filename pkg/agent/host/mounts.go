package host

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/edgebox/edgebox/pkg/durable"
)

// mounts are those of the machine.
type mounts struct {
	list  func() ([]*mountinfo.Info, error)
	mount func(source, target, fstype string, flags uintptr, data string) error
	note  string // file for the mount points that were private before
}

func realMounts(note string) mounts {
	return mounts{
		list:  func() ([]*mountinfo.Info, error) { return mountinfo.GetMounts(nil) },
		mount: unix.Mount,
		note:  note,
	}
}

// share makes the root and what is mounted below it shared, unless the root is, as with systemd. Without that no volume
// with mountPropagation works: CSI drivers would mount what the kubelet and other pods cannot see, and a container that
// wants to see the host's mounts would not start. pkg/footprint makes private again what the note names.
func (m mounts) share() error {
	list, err := m.list()
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	var private []string
	rootShared := false
	for _, i := range list { // a later mount covers an earlier one of the same point
		shared := strings.Contains(i.Optional, "shared:")
		if i.Mountpoint == "/" {
			rootShared = shared
		}
		if !shared {
			private = append(private, i.Mountpoint)
		}
	}
	if rootShared {
		return nil
	}
	data, err := json.Marshal(private)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(m.note), 0o755); err != nil {
		return err
	}
	if err := durable.WriteFile(m.note, data, 0o600); err != nil {
		return err
	}
	if err := m.mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make the root mount shared: %w", err)
	}
	return nil
}
