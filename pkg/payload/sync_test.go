package payload

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const markerTemp = "." + markerName + ".tmp"

// base is the last element of path, less what is random in a temporary file's.
func base(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), "-")
	return name
}

func TestSyncNotesWhatIsOnTheDisk(t *testing.T) {
	p := open(t, packedFile(t))
	dir := t.TempDir()
	binDir, err := p.Unpack(dir)
	must(t, err)

	// The marker must reach the disk after all that it vouches for.
	var order []string
	d := realDisk
	d.fsync = func(f *os.File) error {
		order = append(order, base(f.Name()))
		return f.Sync()
	}
	d.rename = func(from, to string) error {
		order = append(order, "rename")
		return os.Rename(from, to)
	}
	must(t, d.sync(binDir))
	slices.Sort(order[:4])
	hash := filepath.Base(binDir)
	want := []string{"empty", "node", "runc", "shim", hash, filepath.Base(dir), markerTemp, "rename", hash}
	if !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}

	order = nil
	must(t, d.sync(binDir))
	if order != nil {
		t.Errorf("the second Sync did %v", order)
	}

	// After a reboot the files are believed without being read.
	reboot(t, binDir)
	p.disk = disk{}
	flip(t, p.file.Name(), p.starts[0]) // nothing can be unpacked
	_, err = p.Unpack(dir)
	must(t, err)
}

func TestSyncOfPartOfAPayload(t *testing.T) {
	p := open(t, packedFile(t))
	dir := t.TempDir()
	binDir, err := p.Unpack(dir, "runc")
	must(t, err)
	must(t, Sync(binDir))
	_, err = p.Unpack(dir, "node")
	must(t, err)
	reboot(t, binDir)

	// Files that no Unpack of this boot has looked at are not noted.
	must(t, Sync(binDir))
	m, err := readMarker(binDir)
	must(t, err)
	for _, f := range p.Files() {
		if want := f.Name == "runc"; m.has(f) != want {
			t.Errorf("%s believed: %v, want %v", f.Name, m.has(f), want)
		}
	}
}

func TestReplacedFileIsForgottenOnTheDiskFirst(t *testing.T) {
	p := open(t, packedFile(t))
	dir := t.TempDir()
	binDir, err := p.Unpack(dir)
	must(t, err)
	must(t, Sync(binDir))
	must(t, os.Truncate(filepath.Join(binDir, "runc"), 1))

	var order []string
	p.disk.fsync = func(f *os.File) error {
		order = append(order, "fsync "+base(f.Name()))
		return f.Sync()
	}
	p.disk.rename = func(from, to string) error {
		if filepath.Base(to) == "runc" {
			raw, err := os.ReadFile(filepath.Join(binDir, markerName))
			must(t, err)
			if bytes.Contains(raw, []byte("runc")) || !bytes.Contains(raw, []byte("node")) {
				t.Errorf("at the rename of runc the marker was:\n%s", raw)
			}
		}
		order = append(order, "rename "+filepath.Base(to))
		return os.Rename(from, to)
	}
	_, err = p.Unpack(dir)
	must(t, err)
	want := []string{
		"fsync " + markerTemp, "rename " + markerName, "fsync " + filepath.Base(binDir),
		"rename runc", "rename " + markerName,
	}
	if !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
}

func TestTornMarkerBelievesNothingNew(t *testing.T) {
	binDir := t.TempDir()
	file := File{Name: "runc", SHA256: strings.Repeat("a", 64)}
	earlier := marker{files: map[string]markerLine{
		file.Name: {sha256: file.SHA256, since: "00000000-1111-2222-3333-444444444444"},
	}}
	raw := earlier.bytes()
	for n := range len(raw) + 1 {
		must(t, os.WriteFile(filepath.Join(binDir, markerName), raw[:n], 0o644))
		m, err := readMarker(binDir)
		must(t, err)
		if m.has(file) {
			t.Errorf("believed: %q", raw[:n])
		}
	}
}
