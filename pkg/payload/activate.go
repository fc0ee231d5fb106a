package payload

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	current  = "current"
	previous = "previous"
)

// Activate points the symlink current, beside binDir, to it: a path for running
// shims and units that stays valid across upgrades (<dir>/current/runc). A server
// calls it once it has unpacked all that it needs; a front of another version that
// only runs kubectl does not.
func Activate(binDir string) error {
	dir, hash := filepath.Split(binDir)
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()

	old, err := readLink(dir, current)
	if err != nil || old == hash {
		return err
	}
	if old != "" {
		if err := relink(dir, old, previous); err != nil {
			return err
		}
	}
	return relink(dir, hash, current)
}

func relink(dir, target, name string) error {
	tmp := filepath.Join(dir, "."+name+".tmp-")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, name))
}

// Prune removes the payloads in dir other than the active one and the one that was
// active before it, which a roll-back needs. It removes nothing before the first
// Activate.
func Prune(dir string) error {
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()

	active, err := readLink(dir, current)
	if err != nil || active == "" {
		return err
	}
	before, err := readLink(dir, previous)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() || !isHash16(name) || name == active || name == before {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// readLink returns where the link points, or nothing if there is none.
func readLink(dir, name string) (string, error) {
	target, err := os.Readlink(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return target, err
}

func isHash16(name string) bool {
	if len(name) != 16 {
		return false
	}
	for _, c := range name {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
