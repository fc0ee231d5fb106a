package host

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	forward4 = "net/ipv4/ip_forward"
	forward6 = "net/ipv6/conf/all/forwarding"
	bridge4  = "net/bridge/bridge-nf-call-iptables"
	bridge6  = "net/bridge/bridge-nf-call-ip6tables"
)

// newHost is the component on a /proc/sys of its own.
func newHost(t *testing.T, sysctls map[string]string, cidrs ...string) *Host {
	t.Helper()
	var prefixes []netip.Prefix
	for _, c := range cidrs {
		prefixes = append(prefixes, netip.MustParsePrefix(c))
	}
	h := New(prefixes, filepath.Join(t.TempDir(), "shared.json"))
	h.proc = t.TempDir()
	for name, value := range sysctls {
		path := filepath.Join(h.proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func TestSysctls(t *testing.T) {
	off := map[string]string{forward4: "0", bridge4: "0", forward6: "0", bridge6: "0"}
	for name, tt := range map[string]struct {
		before map[string]string
		cidrs  []string
		on     []string // afterwards
		err    string
	}{
		"IPv4 leaves IPv6 alone": {off, []string{"10.42.0.0/16"}, []string{forward4, bridge4}, ""},
		"IPv6 leaves IPv4 alone": {off, []string{"fd42::/48"}, []string{forward6, bridge6}, ""},
		"both":                   {off, []string{"10.42.0.0/16", "fd42::/48"}, []string{forward4, bridge4, forward6, bridge6}, ""},
		"is on already":          {map[string]string{forward4: "1", bridge4: "1"}, []string{"10.42.0.0/16"}, []string{forward4, bridge4}, ""},
		"no br_netfilter": {map[string]string{forward4: "0"}, []string{"10.42.0.0/16"}, []string{forward4},
			"sysctl net.bridge.bridge-nf-call-iptables: open "},
		"no IPv6 in this kernel": {map[string]string{forward4: "0", bridge4: "0", bridge6: "0"}, []string{"10.42.0.0/16", "fd42::/48"},
			[]string{forward4, bridge4, bridge6}, "sysctl net.ipv6.conf.all.forwarding: open "},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, tt.before, tt.cidrs...)
			err := h.setSysctls()
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.err)) {
				t.Errorf("the error is %v, want %q", err, tt.err)
			}
			if check := h.Check(t.Context()); (check == nil) != (tt.err == "") {
				t.Errorf("the check says %v", check)
			}
			for name := range tt.before {
				got, err := os.ReadFile(filepath.Join(h.proc, name))
				if err != nil {
					t.Fatal(err)
				}
				if on := strings.TrimSpace(string(got)) == "1"; on != slices.Contains(tt.on, name) {
					t.Errorf("%s is %s", name, got)
				}
			}
		})
	}
}

func TestCheckFindsChange(t *testing.T) {
	h := newHost(t, map[string]string{forward4: "0", bridge4: "1"}, "10.42.0.0/16")
	if err := h.Check(t.Context()); err == nil || err.Error() != "sysctl net.ipv4.ip_forward is 0, pods need 1" {
		t.Errorf("the error is %v", err)
	}
}
