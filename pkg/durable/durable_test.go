package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestWriteFile(t *testing.T) {
	for _, perm := range []fs.FileMode{0o600, 0o644, 0o666} { // 0666: the umask must not matter
		path := filepath.Join(t.TempDir(), "f")
		for _, content := range []string{"first", "second, longer", ""} {
			if err := WriteFile(path, []byte(content), perm); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != content {
				t.Fatalf("read %q, %v; want %q", got, err, content)
			}
			if fi, _ := os.Stat(path); fi.Mode().Perm() != perm {
				t.Errorf("mode %v, want %v", fi.Mode().Perm(), perm)
			}
		}
		only(t, filepath.Dir(path), "f")
	}
}

func TestWriteFileRelative(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := WriteFile("f", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	only(t, ".", "f")
}

func TestWriteFileFailures(t *testing.T) {
	syncFails := func(dir bool, err error) func(*os.File) error {
		return func(f *os.File) error {
			if fi, _ := f.Stat(); fi.IsDir() == dir {
				return err
			}
			return f.Sync()
		}
	}
	for _, tc := range []struct {
		name    string
		w       Writer
		wantErr error
		want    string
	}{
		{"full disk at fsync", Writer{Sync: syncFails(false, syscall.ENOSPC)}, syscall.ENOSPC, "old"},
		{"rename", Writer{Rename: func(o, n string) error { return &os.LinkError{Op: "rename", Old: o, New: n, Err: syscall.EROFS} }}, syscall.EROFS, "old"},
		{"directory's fsync", Writer{Sync: syncFails(true, syscall.EIO)}, syscall.EIO, "new"},
		{"directory cannot be synced", Writer{Sync: syncFails(true, syscall.EINVAL)}, nil, "new"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			err := tc.w.WriteFile(path, []byte("new"), 0o600)
			if !errors.Is(err, tc.wantErr) {
				t.Errorf("err = %v, want %v", err, tc.wantErr)
			}
			if err != nil && (!strings.Contains(err.Error(), path+":") || strings.Contains(err.Error(), tempMark)) {
				t.Errorf("error should name the target alone: %v", err)
			}
			if got, _ := os.ReadFile(path); string(got) != tc.want {
				t.Errorf("content %q, want %q", got, tc.want)
			}
			only(t, filepath.Dir(path), "f")
		})
	}

	err := WriteFile(filepath.Join(t.TempDir(), "none", "f"), nil, 0o600)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
}

func TestWriteFileConcurrently(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var wg sync.WaitGroup
	for _, c := range "abcdefgh" {
		wg.Go(func() {
			if err := WriteFile(path, []byte(strings.Repeat(string(c), 10000)), 0o600); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, _ := os.ReadFile(path)
	if len(got) != 10000 || strings.Trim(string(got), string(got[:1])) != "" {
		t.Errorf("a mixture of %d bytes", len(got))
	}
	only(t, filepath.Dir(path), "f")
}

func TestMkdirAll(t *testing.T) {
	tmp := t.TempDir()
	dir := filepath.Join(tmp, "a", "b")
	var synced []string
	w := Writer{Sync: func(f *os.File) error { synced = append(synced, f.Name()); return nil }}
	for range 2 { // the second time there is nothing to do
		if err := w.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{filepath.Join(tmp, "a"), tmp}; !slices.Equal(synced, want) { // the folders that have a new name in them
		t.Errorf("synced %v, want %v", synced, want)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", fi, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MkdirAll(filepath.Join(dir, "f", "c"), 0o700); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("below a file: %v", err)
	}
	w.Sync = func(*os.File) error { return syscall.EIO }
	if err := w.MkdirAll(filepath.Join(tmp, "c"), 0o700); !errors.Is(err, syscall.EIO) {
		t.Errorf("on a dying disk: %v", err)
	}
}

func TestRemoveTemp(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"f", ".hidden", ".f.tmp-123", "f.tmp-1", ".g.tmp-2"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := RemoveTemp(dir, "f", "h"); err != nil {
		t.Fatal(err)
	}
	only(t, dir, ".g.tmp-2", ".hidden", "f", "f.tmp-1")
	if err := RemoveTemp(dir); err != nil {
		t.Fatal(err)
	}
	only(t, dir, ".hidden", "f", "f.tmp-1")
	if err := RemoveTemp(filepath.Join(dir, "none")); err != nil {
		t.Error(err)
	}
}

// only fails the test when dir holds anything but names, which are sorted.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("%s holds %v, want %v", dir, got, names)
	}
}
