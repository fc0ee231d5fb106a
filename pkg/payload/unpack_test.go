package payload

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv makes the test binary be another process that unpacks os.Args[1] into
// os.Args[2].
const childEnv = "EDGEBOX_PAYLOAD_TEST_CHILD"

func TestMain(m *testing.M) {
	mode := os.Getenv(childEnv)
	if mode == "" {
		os.Exit(m.Run())
	}
	p, err := Open(os.Args[1])
	if err == nil {
		if mode == "dies after the first rename" {
			p.disk.rename = func(from, to string) error {
				if err := os.Rename(from, to); err != nil {
					return err
				}
				_ = unix.Kill(os.Getpid(), unix.SIGKILL)
				select {}
			}
		}
		_, err = p.Unpack(os.Args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func child(mode, packed, dir string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", packed, dir)
	cmd.Env = append(os.Environ(), childEnv+"="+mode)
	cmd.Stderr = os.Stderr
	return cmd
}

// wantUnpacked checks that exactly the given files are in binDir, whole.
func wantUnpacked(t testing.TB, binDir string, names ...string) {
	t.Helper()
	got := list(t, binDir)
	want := append([]string{markerName}, names...)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("%s holds %v, want %v", binDir, got, want)
	}
	for _, name := range names {
		raw, err := os.ReadFile(filepath.Join(binDir, name))
		must(t, err)
		if !bytes.Equal(raw, contents[name]) {
			t.Errorf("%s has another content", name)
		}
		info, err := os.Stat(filepath.Join(binDir, name))
		must(t, err)
		if want := fs.FileMode(0o755); name != "empty" && info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
}

// reboot makes the marker of binDir one of an earlier boot.
func reboot(t testing.TB, binDir string) {
	t.Helper()
	path := filepath.Join(binDir, markerName)
	raw, err := os.ReadFile(path)
	must(t, err)
	raw = bytes.ReplaceAll(raw, []byte(bootID()), []byte("00000000-1111-2222-3333-444444444444"))
	must(t, os.WriteFile(path, raw, 0o644))
}

func inode(t testing.TB, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info.Sys().(*syscall.Stat_t).Ino
}

func TestUnpack(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)

	p := open(t, packedFile(t))
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	binDir, err := p.Unpack(dir, "runc")
	must(t, err)
	if want := filepath.Join(dir, p.Hash()[:16]); binDir != want || p.BinDir(dir) != want {
		t.Errorf("unpacked into %s, want %s", binDir, want)
	}
	wantUnpacked(t, binDir, "runc")

	runc := inode(t, filepath.Join(binDir, "runc"))
	_, err = p.Unpack(dir, "node", "runc", "node")
	must(t, err)
	wantUnpacked(t, binDir, "node", "runc")
	if inode(t, filepath.Join(binDir, "runc")) != runc {
		t.Error("runc was unpacked twice")
	}
	_, err = p.Unpack(dir)
	must(t, err)
	wantUnpacked(t, binDir, names()...)

	if _, err := p.Unpack(dir, "nodee"); err == nil || !strings.Contains(err.Error(), "nodee is not in the payload") {
		t.Errorf("unknown name: %v", err)
	}
}

// The usual start of a command: no lock is waited for and nothing is written, so
// that it also works for another user and on a read-only file system.
func TestUnpackWithAllInPlaceOnlyReads(t *testing.T) {
	path := packedFile(t)
	p := open(t, path)
	dir := t.TempDir()
	binDir, err := p.Unpack(dir)
	must(t, err)

	unlock, err := lock(dir)
	must(t, err)
	defer unlock()
	p.disk = disk{} // any write would be a call of nil
	before, err := os.Stat(binDir)
	must(t, err)
	_, err = p.Unpack(dir)
	must(t, err)
	after, err := os.Stat(binDir)
	must(t, err)
	if before.ModTime() != after.ModTime() {
		t.Error("the directory was written")
	}
}

func TestUnpackRepairs(t *testing.T) {
	for _, boot := range []string{"unsynced, same boot", "unsynced, after reboot", "synced, same boot", "synced, after reboot"} {
		for damage, do := range map[string]func(t *testing.T, path string){
			"truncated": func(t *testing.T, path string) { must(t, os.Truncate(path, 5)) },
			"grown":     func(t *testing.T, path string) { must(t, os.Truncate(path, 100<<20)) },
			"mode":      func(t *testing.T, path string) { must(t, os.Chmod(path, 0o600)) },
			"removed":   func(t *testing.T, path string) { must(t, os.Remove(path)) },
			"directory": func(t *testing.T, path string) {
				must(t, os.Remove(path))
				must(t, os.Symlink("/bin/true", path))
			},
			// What a power cut before Sync leaves: the right size, without the content.
			"zeroes": func(t *testing.T, path string) {
				size := int64(len(contents["node"]))
				must(t, os.Truncate(path, 0))
				must(t, os.Truncate(path, size))
			},
		} {
			if damage == "zeroes" && boot != "unsynced, after reboot" {
				continue // not what happens, and not looked for
			}
			t.Run(boot+"/"+damage, func(t *testing.T) {
				p := open(t, packedFile(t))
				dir := t.TempDir()
				binDir, err := p.Unpack(dir)
				must(t, err)
				if strings.HasPrefix(boot, "synced") {
					must(t, Sync(binDir))
				}
				if strings.HasSuffix(boot, "reboot") {
					reboot(t, binDir)
				}
				do(t, filepath.Join(binDir, "node"))
				_, err = p.Unpack(dir)
				must(t, err)
				wantUnpacked(t, binDir, names()...)
			})
		}
	}
}

func TestUnpackDamagedPayload(t *testing.T) {
	path := packedFile(t)
	p := open(t, path)
	for i, f := range p.index.Frames {
		at := p.starts[i] + f.Compressed/2
		flip(t, path, at)
		dir := t.TempDir()
		_, err := p.Unpack(dir)
		var damaged *DamagedError
		if !errors.As(err, &damaged) {
			t.Errorf("frame %d: %v, want a DamagedError", i, err)
		}
		if err := p.Verify(); !errors.As(err, &damaged) {
			t.Errorf("frame %d: Verify: %v, want a DamagedError", i, err)
		}
		for _, name := range list(t, p.BinDir(dir)) {
			raw, err := os.ReadFile(filepath.Join(p.BinDir(dir), name))
			must(t, err)
			if !bytes.Equal(raw, contents[name]) {
				t.Errorf("frame %d: left behind: %v", i, name)
			}
		}

		// What is whole can still be used.
		for _, e := range p.index.Files {
			if !slices.ContainsFunc(e.Chunks, func(c chunk) bool { return c.Frame == i }) {
				_, err = p.Unpack(dir, e.Name)
				must(t, err)
			}
		}
		flip(t, path, at)
	}
}

func TestUnpackFromFileCutWhileOpen(t *testing.T) {
	path := packedFile(t)
	p := open(t, path)
	must(t, os.Truncate(path, p.starts[0]+100))
	_, err := p.Unpack(t.TempDir())
	var damaged *DamagedError
	if !errors.As(err, &damaged) {
		t.Errorf("%v, want a DamagedError", err)
	}
}

func TestUnpackFullDisk(t *testing.T) {
	for name, fill := range map[string]func(d *disk){
		"allocate": func(d *disk) { d.allocate = func(*os.File, int64) error { return unix.ENOSPC } },
		"write": func(d *disk) {
			d.writeAt = func(f *os.File, b []byte, at int64) (int, error) {
				if at > 0 {
					return 0, &fs.PathError{Op: "write", Path: f.Name(), Err: unix.EDQUOT}
				}
				return f.WriteAt(b, at)
			}
		},
		"rename": func(d *disk) { d.rename = func(string, string) error { return unix.ENOSPC } },
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, packedFile(t))
			dir := t.TempDir()
			fill(&p.disk)
			_, err := p.Unpack(dir, "node")
			wantNoSpace(t, err, p.BinDir(dir))

			p.disk = realDisk
			_, err = p.Unpack(dir)
			must(t, err)
			wantUnpacked(t, p.BinDir(dir), names()...)
		})
	}
}

func TestUnpackFullTmpfs(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("payload-test", dir, "tmpfs", 0, "size=6m"); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	defer func() { must(t, unix.Unmount(dir, 0)) }()

	p := open(t, packedFile(t))
	_, err := p.Unpack(dir, "runc", "node")
	wantNoSpace(t, err, p.BinDir(dir))
	if !strings.Contains(err.Error(), "9 MiB needed, ") {
		t.Errorf("the error %q does not say how much is needed", err)
	}
}

func wantNoSpace(t *testing.T, err error, binDir string) {
	t.Helper()
	var full *NoSpaceError
	if !errors.As(err, &full) {
		t.Fatalf("%v, want a NoSpaceError", err)
	}
	if full.Dir != binDir || full.Need < int64(len(contents["node"])) || full.Available < 0 {
		t.Errorf("unhelpful: %+v", full)
	}
	if left := list(t, binDir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestUnpackKilled(t *testing.T) {
	path := packedFile(t)
	p := open(t, path)
	dir := t.TempDir()
	binDir := p.BinDir(dir)
	if err := child("dies after the first rename", path, dir).Run(); err == nil {
		t.Fatal("the child did not die")
	}
	left := list(t, binDir)
	if slices.Contains(left, markerName) || !slices.ContainsFunc(left, func(n string) bool { return n[0] != '.' }) {
		t.Fatalf("the child left %v, want a file and no marker", left)
	}
	_, err := p.Unpack(dir)
	must(t, err)
	wantUnpacked(t, binDir, names()...)
}

func TestUnpackConcurrently(t *testing.T) {
	path := packedFile(t)
	p := open(t, path)
	dir := t.TempDir()

	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := child("unpacks", path, dir).Run(); err != nil {
				t.Errorf("child: %v", err)
			}
		})
		wg.Go(func() {
			if _, err := p.Unpack(dir); err != nil {
				t.Error(err)
			}
			if err := Sync(p.BinDir(dir)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantUnpacked(t, p.BinDir(dir), names()...)
}

// BenchmarkUnpack unpacks EDGEBOX_BENCH_FILES (paths, space-separated; by default
// the test binary) as a first boot does, and as every later start does.
func BenchmarkUnpack(b *testing.B) {
	files := strings.Fields(os.Getenv("EDGEBOX_BENCH_FILES"))
	if len(files) == 0 {
		files = []string{os.Args[0]}
	}
	path := filepath.Join(b.TempDir(), "edgebox")
	must(b, Pack(path, "/proc/self/exe", files, Fast()))
	p := open(b, path)
	var size int64
	for _, f := range p.Files() {
		size += f.Size
	}

	b.Run("first", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			b.StopTimer()
			dir := b.TempDir()
			b.StartTimer()
			_, err := p.Unpack(dir)
			must(b, err)
			b.StopTimer()
			must(b, os.RemoveAll(dir))
			b.StartTimer()
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			must(b, p.Verify())
		}
	})
	dir := b.TempDir()
	binDir, err := p.Unpack(dir)
	must(b, err)
	b.Run("reread", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			reboot(b, binDir)
			_, err := p.Unpack(dir)
			must(b, err)
		}
	})
	start := time.Now()
	must(b, Sync(binDir))
	b.Logf("Sync took %v", time.Since(start))
	b.Run("in place", func(b *testing.B) {
		for b.Loop() {
			p := open(b, path)
			_, err := p.Unpack(dir)
			must(b, err)
			_ = p.Close()
		}
	})
}
