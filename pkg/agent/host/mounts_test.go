package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const (
	covered     = "20 1 8:0 / / rw - rootfs rootfs rw\n"
	privateRoot = "21 20 8:1 / / rw - ext4 /dev/sda1 rw\n"
	slaveRoot   = "21 20 8:1 / / rw master:3 - ext4 /dev/sda1 rw\n"
	sharedRoot  = "21 20 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
	privateDisk = "22 21 8:2 / /mnt/my\\040disk rw - ext4 /dev/sdb1 rw\n"
	sharedRun   = "23 21 0:5 / /run rw shared:2 - tmpfs tmpfs rw\n"
)

func TestShare(t *testing.T) {
	for name, tt := range map[string]struct {
		mountinfo string
		note      string // empty if nothing may be changed
	}{
		"systemd": {sharedRoot + sharedRun, ""},
		"systemd and a mount that someone made private": {sharedRoot + privateDisk + sharedRun, ""},
		"a shared root over the one of the initramfs":   {covered + sharedRoot, ""},
		"no systemd": {privateRoot + privateDisk, `["/","/mnt/my disk"]`},
		"no systemd and what somebody has made shared":    {privateRoot + sharedRun, `["/"]`},
		"a container that only gets mounts of its host's": {slaveRoot, `["/"]`},
	} {
		t.Run(name, func(t *testing.T) {
			note := filepath.Join(t.TempDir(), "run", "shared.json")
			shared := false
			m := mounts{
				list: func() ([]*mountinfo.Info, error) {
					return mountinfo.GetMountsFromReader(strings.NewReader(tt.mountinfo), nil)
				},
				mount: func(_, target, _ string, flags uintptr, _ string) error {
					if _, err := os.Stat(note); err != nil {
						t.Errorf("changed before it was noted: %v", err)
					}
					shared = target == "/" && flags == unix.MS_SHARED|unix.MS_REC
					return nil
				},
				note: note,
			}
			if err := m.share(); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(note)
			if tt.note == "" {
				if shared || !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("shared %v, noted %s, %v", shared, got, err)
				}
				return
			}
			if !shared || string(got) != tt.note {
				t.Errorf("shared %v, noted %s, %v, want %s", shared, got, err, tt.note)
			}
		})
	}
}

// TestShareFails: no change without a note, and a clear error.
func TestShareFails(t *testing.T) {
	m := mounts{
		list: func() ([]*mountinfo.Info, error) {
			return mountinfo.GetMountsFromReader(strings.NewReader(privateRoot), nil)
		},
		mount: func(string, string, string, uintptr, string) error { return syscall.EPERM },
		note:  filepath.Join(t.TempDir(), "shared.json"),
	}
	if err := m.share(); !errors.Is(err, syscall.EPERM) || !strings.HasPrefix(err.Error(), "make the root mount shared: ") {
		t.Errorf("no permission: %v", err)
	}
	if err := os.WriteFile(filepath.Join(t.TempDir(), "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.note = filepath.Join(m.note, "below", "a file")
	m.mount = func(string, string, string, uintptr, string) error {
		t.Error("changed without a note")
		return nil
	}
	if err := m.share(); err == nil {
		t.Error("no note, and no error")
	}
}
