package payload

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// marker is the file .verified of an unpacked payload: which files are known to
// be whole, and since when. Unpack renames a file into place without waiting for
// the disk, so after a power cut its name may be there without its content; a file
// is believed only if
//
//   - Sync has brought it to the disk ("synced"), or
//   - it was written or read back since the machine booted: what the kernel holds
//     in memory is whole, whether on disk or not.
//
// One line per file: SHA-256, name, and "synced" or the boot ID. A torn or stale
// marker can only make it forget: no prefix of a boot line is a synced line.
type marker struct {
	boot  string
	files map[string]markerLine // by name
}

type markerLine struct {
	sha256 string
	since  string // synced, or a boot ID
}

const (
	markerName = ".verified"
	synced     = "synced"
)

func readMarker(binDir string) (marker, error) {
	m := marker{boot: bootID(), files: map[string]markerLine{}}
	raw, err := os.ReadFile(filepath.Join(binDir, markerName))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) == 3 {
			m.files[f[1]] = markerLine{sha256: f[0], since: f[2]}
		}
	}
	return m, nil
}

func (m marker) has(f File) bool {
	l, ok := m.files[f.Name]
	return ok && l.sha256 == f.SHA256 && (l.since == synced || m.thisBoot(l))
}

func (m marker) thisBoot(l markerLine) bool { return m.boot != "" && l.since == m.boot }

// add notes a file that was just verified.
func (m marker) add(f File) {
	if m.boot == "" {
		return
	}
	m.files[f.Name] = markerLine{sha256: f.SHA256, since: m.boot}
}

func (m marker) bytes() []byte {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		l := m.files[name]
		fmt.Fprintln(&b, l.sha256, name, l.since)
	}
	return b.Bytes()
}

// bootID names the time since the kernel started; empty when /proc is not there,
// and then nothing is believed before Sync.
func bootID() string {
	raw, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(raw))
}
