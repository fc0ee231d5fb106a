package pki

import (
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestKubeconfigGolden(t *testing.T) {
	s := newStore(t)
	dir := t.TempDir()
	files := Kubeconfig{Path: filepath.Join(dir, "scheduler.kubeconfig"), Server: "https://127.0.0.1:6443", Leaf: Scheduler}
	embedded := Kubeconfig{Path: filepath.Join(dir, "deep", "admin.kubeconfig"), Server: "https://[2001:db8::7]:6443", Leaf: Admin, Embed: true}
	s.ensure(t, ControlPlaneLeaves(testHost), files, embedded)

	for _, k := range []Kubeconfig{files, embedded} {
		got, err := os.ReadFile(k.Path)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(got), s.dir, "/pki")
		for name, content := range s.files(t) {
			text = strings.ReplaceAll(text, base64.StdEncoding.EncodeToString([]byte(content)), "<"+name+">")
		}
		golden := filepath.Join("testdata", filepath.Base(k.Path))
		if os.Getenv("UPDATE_GOLDEN") != "" {
			write(t, golden, []byte(text))
		}
		want, err := os.ReadFile(golden)
		if err != nil || text != string(want) {
			t.Errorf("got\n%s\nwant (UPDATE_GOLDEN=1 accepts the new one)\n%s%v", text, want, err)
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{`/a b`: `"/a b"`, `a"b\c`: `"a\"b\\c"`, "é&<>": `"é&<>"`, "a\nb: c": `"a\nb: c"`} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestKubeconfigFollowsItsCertificate(t *testing.T) {
	s := newStore(t)
	path := filepath.Join(t.TempDir(), "conf", "admin.kubeconfig")
	k := Kubeconfig{Path: path, Server: "https://127.0.0.1:6443", Leaf: Admin, Embed: true}
	leaves := ControlPlaneLeaves(testHost)
	mode := func(path string) fs.FileMode {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return fi.Mode().Perm()
	}
	has := func(name string) bool {
		data, _ := os.ReadFile(path)
		return strings.Contains(string(data), base64.StdEncoding.EncodeToString([]byte(s.files(t)[name])))
	}
	s.ensure(t, leaves, k)
	if mode(path) != 0o600 || mode(filepath.Dir(path)) != 0o700 {
		t.Errorf("modes %v, %v", mode(path), mode(filepath.Dir(path)))
	}
	s.set(today.Add(leafValidity))
	s.ensure(t, leaves, k)
	if !has("admin.crt") || !has("admin.key") || !has("server-ca.crt") {
		t.Error("does not hold the renewed certificate")
	}

	before, _ := os.Stat(path)
	k.Mode = 0o640
	s.ensure(t, leaves, k)
	if after, _ := os.Stat(path); mode(path) != 0o640 || !os.SameFile(before, after) {
		t.Errorf("mode %v, or written without need", mode(path))
	}
	os.WriteFile(filepath.Join(filepath.Dir(path), ".admin.kubeconfig.tmp-1"), nil, 0o600)
	os.WriteFile(filepath.Join(filepath.Dir(path), ".other.tmp-1"), nil, 0o600)
	os.Truncate(path, 100)
	s.ensure(t, leaves, k)
	got := changed(nil, tree(t, filepath.Dir(path)))
	if !has("admin.crt") || !slices.Equal(got, []string{".other.tmp-1", "admin.kubeconfig"}) {
		t.Errorf("after damage there are %v", got)
	}
}

// A file that holds other clusters of the user is not lost.
func TestKubeconfigOfTheUserIsKept(t *testing.T) {
	s := newStore(t)
	path := filepath.Join(t.TempDir(), "config")
	k := Kubeconfig{Path: path, Server: "https://127.0.0.1:6443", Leaf: Admin, Embed: true}
	const theirs = "apiVersion: v1\nkind: Config\nclusters: [{name: work}]\n"
	write(t, path, []byte(theirs))
	for range 2 {
		s.ensure(t, ControlPlaneLeaves(testHost), k)
		if old, _ := os.ReadFile(path + ".old"); string(old) != theirs {
			t.Errorf("%s.old holds %q", path, old)
		}
		if data, _ := os.ReadFile(path); !strings.HasPrefix(string(data), kubeconfigHeader) {
			t.Errorf("not written: %q", data)
		}
		write(t, path, []byte("changed by kubectl config\n"))
	}
}
