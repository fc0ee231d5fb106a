package payload

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/edgebox/edgebox/pkg/durable"
)

// disk is the calls that a full or dying disk makes fail; tests replace them.
type disk struct {
	allocate func(f *os.File, size int64) error
	writeAt  func(f *os.File, b []byte, at int64) (int, error)
	rename   func(from, to string) error
	fsync    func(f *os.File) error
}

var realDisk = disk{
	allocate: allocate,
	writeAt:  writeAt,
	rename:   os.Rename,
	fsync:    (*os.File).Sync,
}

// atOnce is how many bytes one write takes. The kernel keeps what one write brought as one piece of the page cache, up to
// 2 MiB, which later is mapped into a process, and given back when memory is short, as a whole or not at all: with larger
// writes all 170 MiB of the node binary are resident for as long as it runs.
const atOnce = 64 << 10

func writeAt(f *os.File, b []byte, at int64) (n int, err error) {
	for part := range slices.Chunk(b, atOnce) {
		done, err := f.WriteAt(part, at+int64(n))
		n += done
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// allocate reserves the blocks of a file and sets its size.
func allocate(f *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return nil // such as NFS and ZFS: then the write reports a full disk
		default:
			return err
		}
	}
}

// fsyncPath brings a file or directory to the disk.
func (d disk) fsyncPath(path string) (fs.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := d.fsync(f); err != nil {
		return nil, &fs.PathError{Op: "fsync", Path: path, Err: err}
	}
	return f.Stat()
}

// writeMarker replaces the marker of binDir, at once or whenever the kernel
// writes it out. The caller holds the lock.
func (d disk) writeMarker(binDir string, m marker, atOnce bool) error {
	w := durable.Writer{Sync: d.fsync, Rename: d.rename}
	if !atOnce {
		w.Sync = func(*os.File) error { return nil }
	}
	return w.WriteFile(filepath.Join(binDir, markerName), m.bytes(), 0o644)
}

// forget removes the entries from the marker and, where it called one synced, also
// from the marker on the disk: a power cut while the file is being replaced must
// not leave a marker that vouches for the new content.
func (d disk) forget(binDir string, m marker, entries []entry) error {
	noted := false
	for _, e := range entries {
		noted = noted || m.files[e.Name].since == synced
		delete(m.files, e.Name)
	}
	if !noted {
		return nil
	}
	return d.writeMarker(binDir, m, true)
}

// lock takes the lock of whoever writes in dir, waiting for another process to
// finish. The kernel drops it when the process dies.
func lock(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, ".lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	return func() { _ = f.Close() }, nil
}
