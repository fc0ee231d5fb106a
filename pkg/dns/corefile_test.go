package dns

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (-update writes it):\n%s", path, got)
	}
}

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestCorefile(t *testing.T) {
	for name, c := range map[string]corefile{
		"alone.Corefile": {port: 53, addresses: addrs("10.42.0.1"), domain: "cluster.local"},
		"one.Corefile":   {port: 53, addresses: addrs("10.42.0.1"), domain: "cluster.local", upstreams: addrs("192.0.2.53")},
		"dual.Corefile": {
			port: 53, addresses: addrs("10.42.0.1", "fd42::1"), domain: "edge.example",
			upstreams: addrs("192.0.2.53", "2001:db8::53"),
		},
	} {
		golden(t, name, c.render())
	}
}
