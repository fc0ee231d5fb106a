// Package durable writes files that survive a power cut: after WriteFile returns, the new content is on the disk;
// if it does not return, the path holds the whole old content or the whole new one, never a mixture.
//
// It owns nothing but the temporary files it makes beside its targets, which a crash can leave behind and
// RemoveTemp clears. Standard library only.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Temporary files are named .NAME.tmp-RANDOM, so that no loader of *.crt, *.yaml or the like picks one up.
const tempMark = ".tmp-"

// WriteFile replaces the content and permissions of the file at path: temporary file, fsync, rename, fsync of the
// directory. perm is applied as given, whatever the umask. A symbolic link at path is replaced, not followed.
// Errors name the path and wrap the system's error; on an error no temporary file stays and the old file is intact,
// except that an error of the last step (the directory's fsync) leaves the new content in place, perhaps not
// durably. Concurrent writers of one path are safe; the last rename wins.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return Writer{}.WriteFile(path, data, perm)
}

// A Writer is WriteFile and MkdirAll with hooks at the steps that a disk can fail, for tests; the zero Writer has none.
type Writer struct {
	Sync   func(f *os.File) error              // in place of f.Sync, for a file and then for its directory
	Rename func(oldpath, newpath string) error // in place of os.Rename
}

// WriteFile is the package's WriteFile through the Writer's hooks.
func (w Writer) WriteFile(path string, data []byte, perm fs.FileMode) error {
	if err := w.write(path, data, perm); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: cause(err)}
	}
	return nil
}

func (w Writer) write(path string, data []byte, perm fs.FileMode) (err error) {
	rename := w.Rename
	if rename == nil {
		rename = os.Rename
	}

	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, "."+base+tempMark+"*") // 0600 until the content is complete
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name()) // fails harmlessly once renamed
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if err := w.sync(f); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := rename(f.Name(), path); err != nil {
		return err
	}

	return w.syncDir(dir)
}

func (w Writer) sync(f *os.File) error {
	if w.Sync != nil {
		return w.Sync(f)
	}
	return f.Sync()
}

func (w Writer) syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some network and FUSE file systems cannot sync a directory; there is nothing more to do on them.
	if err := w.sync(d); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// MkdirAll is os.MkdirAll, and makes the new directories' names durable too: without that, a power cut can take a
// whole new directory away with the durable files in it.
func MkdirAll(path string, perm fs.FileMode) error { return Writer{}.MkdirAll(path, perm) }

// MkdirAll is the package's MkdirAll through the Writer's hooks.
func (w Writer) MkdirAll(path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	var parents []string // of what is to be made
	for dir := path; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			break
		}
		parents = append(parents, filepath.Dir(dir))
	}
	if err := os.MkdirAll(path, perm); err != nil {
		return err
	}
	for _, dir := range parents {
		if err := w.syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// RemoveTemp removes the temporary files that writers killed in the middle left in dir: those of the files named, or
// of all files if none is named. The caller must know that no writer of these files is at work. A missing dir is no
// error.
func RemoveTemp(dir string, names ...string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		target, _, marked := strings.Cut(e.Name(), tempMark)
		target, hidden := strings.CutPrefix(target, ".")
		if marked && hidden && e.Type().IsRegular() && (len(names) == 0 || slices.Contains(names, target)) {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// cause strips the temporary file's name, which means nothing to a user.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	var le *os.LinkError
	if errors.As(err, &le) {
		return le.Err
	}
	return err
}
