package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	someMachineID = "0123456789abcdef0123456789abcdef"
	someUUID      = "4c4c4544-0042-3510-8054-b4c04f564433"
)

// machineRoot is a file system with that content.
func machineRoot(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestLoadMachine: which changes of a computer make it another machine.
func TestLoadMachine(t *testing.T) {
	const uuidFile, serialFile = "sys/class/dmi/id/product_uuid", "proc/device-tree/serial-number"
	load := func(files map[string]string) string {
		t.Helper()
		file := filepath.Join(t.TempDir(), "machine")
		m, err := LoadMachine(machineRoot(t, files), file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a file was made though there is a machine-id: %v", err)
		}
		return m.ID()
	}
	pc := load(map[string]string{"etc/machine-id": someMachineID + "\n", uuidFile: someUUID + "\n"})
	// Written down, since an upgrade must not change it.
	if want := "daf04422c7f5f840"; !strings.HasPrefix(pc, want) || len(pc) != 64 {
		t.Errorf("the machine has become %s", pc)
	}
	for name, files := range map[string]map[string]string{
		"nothing":               {"etc/machine-id": someMachineID + "\n", uuidFile: someUUID + "\n"},
		"a kernel of old":       {"etc/machine-id": someMachineID, uuidFile: strings.ToUpper(someUUID)},
		"a device tree as well": {"etc/machine-id": someMachineID, uuidFile: someUUID, serialFile: "1"},
	} {
		if id := load(files); id != pc {
			t.Errorf("%s makes it another machine", name)
		}
	}
	seen := map[string]string{pc: "the machine"}
	for name, files := range map[string]map[string]string{
		"another machine-id": {"etc/machine-id": strings.Repeat("f", 32), uuidFile: someUUID},
		"another board":      {"etc/machine-id": someMachineID, uuidFile: strings.Replace(someUUID, "4", "5", 1)},
		"no serial":          {"etc/machine-id": someMachineID},
		"a Pi":               {"etc/machine-id": someMachineID, serialFile: "10000000a1b2c3d4\x00"},
		"another Pi":         {"etc/machine-id": someMachineID, serialFile: "10000000a1b2c3d5\x00"},
	} {
		id := load(files)
		if same := seen[id]; same != "" {
			t.Errorf("%s is the same as %s", name, same)
		}
		seen[id] = name
	}
}

// TestMachineWithoutID keeps what it made up, on the same board.
func TestMachineWithoutID(t *testing.T) {
	for name, content := range map[string]string{
		"missing": "", "uninitialized": "uninitialized\n", "zero": strings.Repeat("0", 32), "short": someMachineID[1:], "words": "my machine",
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{}
			if name != "missing" {
				files["etc/machine-id"] = content
			}
			root, file := machineRoot(t, files), filepath.Join(t.TempDir(), "new", "machine")
			first, err := LoadMachine(root, file)
			if err != nil {
				t.Fatal(err)
			}
			if fi, err := os.Stat(file); err != nil || fi.Mode() != 0o600 {
				t.Errorf("the file has mode %v, %v", fi.Mode(), err)
			}
			if again, err := LoadMachine(root, file); err != nil || again.ID() != first.ID() {
				t.Errorf("another machine the next time, %v", err)
			}
			// systemd writes the machine-id late in the first boot.
			later := machineRoot(t, map[string]string{"etc/machine-id": someMachineID})
			if again, err := LoadMachine(later, file); err != nil || again.ID() != first.ID() {
				t.Errorf("another machine once there is a machine-id, %v", err)
			}
			moved := machineRoot(t, map[string]string{"proc/device-tree/serial-number": "10000000a1b2c3d4"})
			if other, err := LoadMachine(moved, file); err != nil || other.ID() == first.ID() {
				t.Errorf("the same machine on another board, %v", err)
			}
			if other, err := LoadMachine(root, filepath.Join(t.TempDir(), "machine")); err != nil || other.ID() == first.ID() {
				t.Errorf("the same machine without its file, %v", err)
			}
		})
	}
}

func TestLoadMachineRefuses(t *testing.T) {
	root, file := machineRoot(t, nil), filepath.Join(t.TempDir(), "machine")
	for _, content := range []string{"", "\n", someMachineID, strings.Repeat("z", 64)} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadMachine(root, file)
		wantError(t, err, file, "is not 64 hex digits", "restore it, or remove it")
	}
	// What cannot be read may be there another time: it must not become another machine.
	broken := machineRoot(t, map[string]string{"etc/machine-id/folder": ""})
	none := filepath.Join(t.TempDir(), "machine")
	if _, err := LoadMachine(broken, none); err == nil {
		t.Error("a machine-id that cannot be read")
	}
	if _, err := os.Stat(none); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is there: %v", err)
	}
	if _, err := LoadMachine(root, filepath.Join(file, "below-a-file")); err == nil {
		t.Error("an identity that could not be kept")
	}
}

func testMachine(t testing.TB, id string) Machine {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/machine-id"), []byte(id), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := LoadMachine(root, filepath.Join(root, "machine"))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMachineSignature(t *testing.T) {
	m := testMachine(t, someMachineID)
	csr := []byte("0\x82 a request")
	good := m.Sign("box", csr)
	if id, err := VerifyMachine(good, "box", csr); err != nil || id != m.ID() {
		t.Errorf("%s, %v; want %s", id, err, m.ID())
	}
	key, sig, _ := strings.Cut(good, ".")
	other, _, _ := strings.Cut(testMachine(t, strings.Repeat("1", 32)).Sign("box", csr), ".")
	for name, tc := range map[string]struct {
		annotation, node string
		csr              []byte
		want             string
	}{
		"nothing":         {"", "box", csr, "two parts"},
		"a key alone":     {key, "box", csr, "two parts"},
		"another machine": {other + "." + sig, "box", csr, "not for this request"},
		"another node":    {good, "bot", csr, "not for this request"},
		"another request": {good, "box", csr[1:], "not for this request"},
		"moved border":    {good, "box0", csr[1:], "not for this request"},
		"a short key":     {key[4:] + "." + sig, "box", csr, "first part"},
		"no base64":       {"!" + key[1:] + "." + sig, "box", csr, "first part"},
		"no signature":    {key + ".", "box", csr, "second part"},
		"three parts":     {good + "." + sig, "box", csr, "second part"},
	} {
		id, err := VerifyMachine(tc.annotation, tc.node, tc.csr)
		if err == nil || id != "" {
			t.Errorf("%s: %q, %v", name, id, err)
			continue
		}
		wantError(t, err, tc.want)
	}
	for _, format := range []string{"%v", "%s", "%+v", "%#v"} {
		if out := fmt.Sprintf(format, m); out != m.ID() {
			t.Errorf("%s shows %s", format, out)
		}
	}
}

func FuzzVerifyMachine(f *testing.F) {
	m := testMachine(f, someMachineID)
	csr := []byte("a request")
	good := m.Sign("box", csr)
	for _, s := range []string{"", ".", good, good[:len(good)-1], "\n" + good} {
		f.Add(s, "box", csr)
	}
	f.Fuzz(func(t *testing.T, annotation, node string, csr []byte) {
		id, err := VerifyMachine(annotation, node, csr)
		if err != nil {
			return
		}
		key, _, _ := strings.Cut(annotation, ".")
		mine, _, _ := strings.Cut(good, ".")
		if strings.Join(strings.Fields(key), "") == mine && (node != "box" || string(csr) != "a request") {
			t.Errorf("%q passes for %s, %q", annotation, node, csr)
		}
		if len(id) != 64 {
			t.Errorf("id %q", id)
		}
	})
}
