package flannel

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("differs from %s (-update writes it):\n%s", path, got)
	}
}

func TestConflist(t *testing.T) {
	for name, cidrs := range map[string][]netip.Prefix{
		"ipv4.conflist": {netip.MustParsePrefix("10.42.0.0/24")},
		"dual.conflist": {netip.MustParsePrefix("10.42.3.0/24"), netip.MustParsePrefix("fd42:0:0:3::/64")},
	} {
		data, err := renderConflist(cidrs, 1450, "/run/edgebox/cni")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, data)
	}
}

func TestWriteConflistLeavesAnEqualOneAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "net.d")
	cidrs := []netip.Prefix{netip.MustParsePrefix("10.42.0.0/24")}
	write := func() os.FileInfo {
		t.Helper()
		if err := writeConflist(dir, cidrs, 1450, "/run/cni"); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(ConflistPath(dir))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := write()
	if !os.SameFile(first, write()) {
		t.Error("an equal configuration was replaced")
	}
	cidrs[0] = netip.MustParsePrefix("10.42.1.0/24")
	if os.SameFile(first, write()) {
		t.Error("another pod CIDR was not written")
	}
}
