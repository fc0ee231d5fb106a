package payload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// contents is the payload of the tests: a file with frames of its own, small ones
// that share a frame, and an empty one. Half of it compresses, half does not.
var contents = map[string][]byte{
	"empty": {},
	"node":  mixed(2*chunkSize + 12_345),
	"runc":  mixed(70_000),
	"shim":  mixed(chunkSize + 300),
}

func mixed(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	for i := 0; i < n; i += 8192 {
		_, _ = r.Read(b[i:min(i+4096, n)])
	}
	return b
}

// writeInputs makes the files that are packed and returns their paths.
func writeInputs(t testing.TB) []string {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for name, content := range contents {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, content, 0o600))
		if name != "empty" {
			must(t, os.Chmod(path, 0o700))
		}
		paths = append(paths, path)
	}
	return paths
}

var packedOnce struct {
	sync.Once
	content []byte
}

// packedFile returns the path of a packed file that the test may damage. Its front
// is the test binary.
func packedFile(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "edgebox")
	packedOnce.Do(func() {
		l := &layout{bigFile: len(contents["node"])}
		must(t, packFile(path, "/proc/self/exe", writeInputs(t), l, Fast()))
		var err error
		packedOnce.content, err = os.ReadFile(path)
		must(t, err)
	})
	must(t, os.WriteFile(path, packedOnce.content, 0o755))
	return path
}

func open(t testing.TB, path string) *Payload {
	t.Helper()
	p, err := Open(path)
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// flip changes one byte of a file.
func flip(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	must(t, err)
	b[0] ^= 0x40
	_, err = f.WriteAt(b, at)
	must(t, err)
}

func TestOpenListsWhatWasPacked(t *testing.T) {
	p := open(t, packedFile(t))
	want := []File{
		{Name: "empty", Mode: 0o644, Size: 0, SHA256: sum(nil)},
		{Name: "node", Mode: 0o755, Size: int64(len(contents["node"])), SHA256: sum(contents["node"])},
		{Name: "runc", Mode: 0o755, Size: int64(len(contents["runc"])), SHA256: sum(contents["runc"])},
		{Name: "shim", Mode: 0o755, Size: int64(len(contents["shim"])), SHA256: sum(contents["shim"])},
	}
	if got := p.Files(); !slices.Equal(got, want) {
		t.Errorf("Files() = %v, want %v", got, want)
	}
	if len(p.Hash()) != 64 {
		t.Errorf("Hash() = %q", p.Hash())
	}
	must(t, p.Verify())
}

func TestPackIsDeterministic(t *testing.T) {
	dir := t.TempDir()
	inputs := writeInputs(t)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	must(t, Pack(a, "/proc/self/exe", inputs, Fast()))
	slices.Reverse(inputs)
	must(t, Pack(b, "/proc/self/exe", inputs, Fast()))

	rawA, err := os.ReadFile(a)
	must(t, err)
	rawB, err := os.ReadFile(b)
	must(t, err)
	if !bytes.Equal(rawA, rawB) {
		t.Error("the order of the inputs changed the output")
	}

	// A new front does not make a node unpack everything again.
	c := filepath.Join(dir, "c")
	must(t, Pack(c, "/bin/sh", inputs, Fast()))
	if open(t, a).Hash() != open(t, c).Hash() {
		t.Error("the hash depends on the front")
	}
}

func TestPackRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name string) string {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(name), 0o755))
		return path
	}
	broken := func([]byte) ([]byte, error) { return nil, errors.New("broken") }
	for name, tc := range map[string]struct {
		front    string
		files    []string
		compress Compressor
		want     string
	}{
		"one name twice":    {"/bin/sh", []string{write("a/x"), write("b/x")}, Fast(), "have one name"},
		"dot file":          {"/bin/sh", []string{write(".verified")}, Fast(), "cannot be the name"},
		"space in name":     {"/bin/sh", []string{write("a b")}, Fast(), "cannot be the name"},
		"front is a script": {write("script"), []string{write("x")}, Fast(), "not a bare executable"},
		"front has payload": {packedFile(t), []string{write("x")}, Fast(), "not a bare executable"},
		"missing file":      {"/bin/sh", []string{filepath.Join(dir, "none")}, Fast(), "no such file"},
		"compressor fails":  {"/bin/sh", []string{write("x")}, broken, "broken"},
	} {
		t.Run(name, func(t *testing.T) {
			outDir := t.TempDir()
			err := Pack(filepath.Join(outDir, "out"), tc.front, tc.files, tc.compress)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if left := list(t, outDir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestOpenBareFront(t *testing.T) {
	for _, path := range []string{"/proc/self/exe", "/bin/sh"} {
		if _, err := Open(path); !errors.Is(err, ErrNoPayload) {
			t.Errorf("Open(%s) = %v, want ErrNoPayload", path, err)
		}
	}
}

func TestOpenDamaged(t *testing.T) {
	size := int64(len(packedContent(t)))
	var foot footer
	must(t, binary.Read(bytes.NewReader(packedContent(t)[size-footerSize:]), binary.LittleEndian, &foot))

	damage := map[string]func(t *testing.T, path string){
		"flipped index": func(t *testing.T, path string) { flip(t, path, int64(foot.Index)+10) },
		"appended":      func(t *testing.T, path string) { must(t, os.Truncate(path, size+1)) },
	}
	for name, keep := range map[string]int64{
		"cut in footer": size - 1,
		"no footer":     size - footerSize,
		"cut in index":  int64(foot.Index) + 5,
		"cut in frames": int64(foot.Start) + 1000,
		"cut in front":  int64(foot.Start) - 1000,
		"nearly empty":  10,
		"empty":         0,
	} {
		damage[name] = func(t *testing.T, path string) { must(t, os.Truncate(path, keep)) }
	}
	for name, do := range damage {
		t.Run(name, func(t *testing.T) {
			path := packedFile(t)
			do(t, path)
			wantDamaged(t, path)
		})
	}
	t.Run("flipped footer", func(t *testing.T) {
		path := packedFile(t)
		for at := size - footerSize; at < size; at++ {
			flip(t, path, at)
			wantDamaged(t, path)
			flip(t, path, at)
		}
	})
}

func packedContent(t testing.TB) []byte {
	t.Helper()
	packedFile(t)
	return packedOnce.content
}

func wantDamaged(t *testing.T, path string) {
	t.Helper()
	_, err := Open(path)
	var damaged *DamagedError
	if !errors.As(err, &damaged) || damaged.Path != path {
		t.Errorf("Open = %v, want a DamagedError", err)
	}
}

func list(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func names() []string { return slices.Sorted(maps.Keys(contents)) }
