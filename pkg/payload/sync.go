package payload

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Sync brings what Unpack has put into binDir to the disk and then notes so, after
// which a power cut costs no re-reading of the files at the next boot. It takes as
// long as the disk needs for some 200 MB, seconds on an SD card: call it when the
// node is up. It does nothing when all is noted already. Unpack does not wait
// for it.
func Sync(binDir string) error { return realDisk.sync(binDir) }

func (d disk) sync(binDir string) error {
	m, err := readMarker(binDir)
	if err != nil {
		return err
	}
	onDisk := map[string]fs.FileInfo{}
	for name, l := range m.files {
		if !m.thisBoot(l) {
			continue
		}
		info, err := d.fsyncPath(filepath.Join(binDir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		onDisk[name] = info
	}
	if len(onDisk) == 0 {
		return nil
	}
	// The names before the marker that vouches for them.
	dir := filepath.Dir(binDir)
	for _, path := range []string{binDir, dir} {
		if _, err := d.fsyncPath(path); err != nil {
			return err
		}
	}

	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	if m, err = readMarker(binDir); err != nil {
		return err
	}
	for name, info := range onDisk {
		now, err := os.Lstat(filepath.Join(binDir, name))
		if l, ok := m.files[name]; ok && err == nil && os.SameFile(info, now) {
			l.since = synced
			m.files[name] = l
		}
	}
	return d.writeMarker(binDir, m, true)
}
