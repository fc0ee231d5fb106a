package footprint

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/pkg/config"
)

// fakeProc makes a /proc in which each line is: pid parent comm exe namespaces cgroup [arguments].
func fakeProc(t *testing.T, lines ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, line := range lines {
		f := strings.Fields(line)
		dir := filepath.Join(root, "proc", f[0])
		write(t, filepath.Join(dir, "stat"), f[0]+" ("+f[2]+") S "+f[1]+strings.Repeat(" 0", 17)+" 4711 0 0\n")
		write(t, filepath.Join(dir, "cmdline"), strings.Join(append([]string{f[3]}, f[6:]...), "\x00")+"\x00")
		write(t, filepath.Join(dir, "cgroup"), "0::"+f[5]+"\n")
		must(t, os.Symlink(f[3], filepath.Join(dir, "exe")))
		must(t, os.MkdirAll(filepath.Join(dir, "ns"), 0o755))
		must(t, os.Symlink("mnt:["+f[4]+"]", filepath.Join(dir, "ns", "mnt")))
		must(t, os.Symlink("pid:["+f[4]+"]", filepath.Join(dir, "ns", "pid")))
	}
	return root
}

func TestRoles(t *testing.T) {
	dir := t.TempDir()
	p := config.Paths{Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run")}
	bin := filepath.Join(p.Bin(), "0123456789abcdef")
	// "-" stands for a file of edgebox, "%" for its containerd's socket.
	lines := []string{
		"1 0 systemd /usr/lib/systemd/systemd 1 /init.scope",
		"10 1 edgebox-node -/edgebox-node 1 /system.slice/edgebox.service server",
		"11 10 mount /usr/bin/mount 1 /system.slice/edgebox.service",
		"20 1 containerd-shim -/containerd-shim-runc-v2 1 / -namespace k8s.io -id aaaa -address %",
		"21 20 nginx /usr/sbin/nginx 7 /kubepods/pod1/aaaa",
		"22 21 nginx /usr/sbin/nginx 7 /kubepods/pod1/aaaa",
		"30 1 containerd-shim /usr/bin/containerd-shim-runc-v2 1 / -namespace k8s.io -id bbbb -address %", // the host's file, our socket
		"31 30 app /app 8 /kubepods/pod2/bbbb",
		"40 1 containerd-shim /usr/bin/containerd-shim-runc-v2 1 / -namespace moby -id cccc -address /run/containerd/containerd.sock",
		"41 40 app /app 9 /docker/cccc",
		"50 1 edgebox-node /usr/bin/edgebox-node 1 /user.slice server", // the name alone proves nothing
		"51 1 bash /bin/bash 1 /user.slice grep %",                     // nor does naming the socket
		"60 41 edgebox-node -/edgebox-node 9 /docker/cccc server",      // an edgebox in a container of Docker
		"70 10 sh /bin/sh 1 / -c uninstall",                            // the caller, started by the node
		"71 70 edgebox -/edgebox-node 1 / uninstall",
		"80 1 kubectl -/kubectl 1 /user.slice",
		"99 51 uninstall /bin/uninstall 1 /user.slice",
	}
	for i, l := range lines {
		lines[i] = strings.ReplaceAll(strings.Replace(l, " -/", " "+bin+"/", 1), "%", p.ContainerdSocket())
	}
	h := realHost()
	h.root, h.self = fakeProc(t, lines...), 71

	s := h.survey(p)
	want := map[int]role{
		11: roleChild, 20: roleShim, 21: roleContainer, 22: roleContainer, 30: roleShim, 31: roleContainer, 80: roleNode,
	}
	for pid, proc := range s.procs {
		if proc.role != want[pid] {
			t.Errorf("pid %d (%s) is taken for %q, want %q", pid, proc.comm, proc.role, want[pid])
		}
	}
	if !s.present || !s.sole {
		t.Errorf("present %v, sole %v", s.present, s.sole)
	}
	if !s.containers["aaaa"] || !s.containers["bbbb"] || s.containers["cccc"] {
		t.Errorf("containers: %v", s.containers)
	}

	h.self = 99 // called from elsewhere: the node is no ancestor
	s = h.survey(p)
	if s.procs[10].role != roleNode || s.procs[71].role != roleNode || s.procs[70].role != roleChild || s.procs[1].role != "" {
		t.Errorf("called from elsewhere: %+v", s.procs)
	}
}

func TestAnotherKubernetesMakesSharedNamesForeign(t *testing.T) {
	dir := t.TempDir()
	p := config.Paths{Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run")}
	write(t, p.Lock(), "")
	write(t, p.FlannelSubnet(), "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.0.1/24\n")
	ours := strconv.Itoa(os.Getpid()) + " 1 test /test 1 /"
	for name, tc := range map[string]struct {
		lines         []string
		file          string
		sole, network bool
	}{
		"alone":               {sole: true, network: true},
		"k3s was installed":   {file: "/var/lib/rancher/k3s/x", network: true},
		"k3s runs":            {file: "/var/lib/rancher/k3s/x", lines: []string{"5 1 k3s-server /usr/local/bin/k3s 1 /system.slice/k3s.service"}},
		"a kubelet runs":      {lines: []string{"5 1 kubelet /usr/bin/kubelet 1 /system.slice/kubelet.service"}},
		"a kubelet in a pod":  {lines: []string{"5 1 kubelet /usr/bin/kubelet 1 /kubepods/pod1/x"}, sole: true, network: true},
		"k3s in a container":  {lines: []string{"5 1 k3s-server /bin/k3s 3 /docker/x"}, sole: true, network: true},
		"kubeadm left a file": {file: "/etc/kubernetes/kubelet.conf", network: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := realHost()
			h.root = fakeProc(t, append(tc.lines, ours)...)
			if tc.file != "" {
				write(t, filepath.Join(h.root, tc.file), "x")
			}
			if s := h.survey(p); s.sole != tc.sole || s.network != tc.network {
				t.Errorf("sole %v, network %v; want %v, %v", s.sole, s.network, tc.sole, tc.network)
			}
		})
	}
}

func TestParseStat(t *testing.T) {
	p, valid := parseStat("812 (a (weird) name) Z 7 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 90210 1 2")
	if !valid || p.pid != 812 || p.parent != 7 || p.comm != "a (weird) name" || !p.zombie || p.start != 90210 {
		t.Errorf("got %+v", p)
	}
	for _, bad := range []string{"", "1", "1 (x", ") 1 (", "1 (x) S", "x (x) S 1" + strings.Repeat(" 0", 20)} {
		if p, valid := parseStat(bad); valid {
			t.Errorf("%q gives %+v", bad, p)
		}
	}
}

func TestParseMountinfo(t *testing.T) {
	got := parseMountinfo(`36 35 98:0 /mnt1 /mnt/with\040blank rw,noatime master:1 shared:2 - ext3 /dev/my\134disk rw,errors=continue
broken line
37 35 0:5 / /run rw - tmpfs tmpfs rw
`)
	want := []mount{{"/mnt/with blank", "ext3", `/dev/my\disk`, true}, {"/run", "tmpfs", "tmpfs", false}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestCgroupOwner(t *testing.T) {
	for name, want := range map[string][2]string{
		"kubepods":       {"", "kubepods"},
		"kubepods.slice": {"", "kubepods"},
		"besteffort":     {"", "besteffort"},
		"pod12345678-1234-1234-1234-123456789abc":                           {"12345678-1234-1234-1234-123456789abc", ""},
		"kubepods-besteffort-pod12345678_1234_1234_1234_123456789abc.slice": {"12345678-1234-1234-1234-123456789abc", ""},
		"kubepods-pod12345678_1234_1234_1234_123456789abc.slice":            {"12345678-1234-1234-1234-123456789abc", ""},
		"cri-containerd-0123abc.scope":                                      {"", "0123abc"},
		"0123abc":                                                           {"", "0123abc"},
		"pods01d":                                                           {"s01d", ""},
	} {
		if uid, id := cgroupOwner(name); [2]string{uid, id} != want {
			t.Errorf("%s: pod %q, container %q", name, uid, id)
		}
	}
}

func TestParseSubnets(t *testing.T) {
	s := parseSubnets("FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.3.1/24\nFLANNEL_IPV6_NETWORK=fd42::/48\nFLANNEL_IPV6_SUBNET=fd42:0:0:3::1/64\nFLANNEL_MTU=1450\nrubbish\nFLANNEL_NETWORK=x\n")
	if len(s.networks) != 2 || len(s.own) != 2 || s.own[0].String() != "10.42.3.1/24" {
		t.Errorf("got %+v", s)
	}
	in := survey{subnets: s}
	for dst, want := range map[string]bool{"10.42.7.0/24": true, "10.42.0.0/16": false, "10.43.0.0/24": false, "fd42:0:0:7::/64": true, "0.0.0.0/0": false} {
		if got := in.inCluster(netip.MustParsePrefix(dst)); got != want {
			t.Errorf("%s: %v", dst, got)
		}
	}
}

func TestParseBundle(t *testing.T) {
	for _, bad := range []string{"", "{", "[]", `{"linux":null}`, `{"linux":{"cgroupsPath":7}}`} {
		if b := parseBundle([]byte(bad)); b != (bundle{}) {
			t.Errorf("%s gives %+v", bad, b)
		}
	}
	b := parseBundle([]byte(`{"linux":{"cgroupsPath":"kubepods-besteffort.slice:cri-containerd:abc","namespaces":[{"type":"pid"},{"type":"network","path":"/var/run/netns/cni-1"}]},"annotations":{"io.kubernetes.cri.container-type":"container"}}`))
	if b.cgroup != "" || b.netns != "/var/run/netns/cni-1" || !b.pod || b.podUID != "" {
		t.Errorf("got %+v", b)
	}
}

// Each part of the data dir that config.Paths names is one that an uninstall removes from a data dir that others use too.
func TestDataNamesAreComplete(t *testing.T) {
	p := config.Paths{Data: "/data", Run: "/run-dir"}
	v := reflect.ValueOf(p)
	for i := range v.NumMethod() {
		m := v.Type().Method(i)
		args := make([]reflect.Value, m.Type.NumIn()-1)
		for j := range args {
			args[j] = reflect.ValueOf("x")
		}
		out := v.Method(i).Call(args)
		path, isString := out[0].Interface().(string)
		if !isString {
			continue
		}
		if rel, found := strings.CutPrefix(path, p.Data+"/"); found {
			first, _, _ := strings.Cut(rel, "/")
			if !slices.Contains(dataNames, first) {
				t.Errorf("config.Paths.%s is in %q, which dataNames lacks", m.Name, first)
			}
		}
	}
	if dataNames[len(dataNames)-1] != "lock" {
		t.Error("the lock must go last")
	}
}

func TestRefusesSystemDirectories(t *testing.T) {
	for _, dir := range []string{"/", "/usr", "/usr/local", "/home", "/var/lib", "", "data", "/var/lib/", "/var/lib/../lib"} {
		p := config.Paths{Data: dir, Run: "/run/edgebox"}
		if err := Remove(t.Context(), p, func(i Item) { t.Errorf("%s was removed", i) }); err == nil {
			t.Errorf("%q is taken for a data dir", dir)
		}
		if err := refuse(config.Paths{Data: "/var/lib/edgebox", Run: dir}); err == nil {
			t.Errorf("%q is taken for a runtime directory", dir)
		}
	}
}
