// Package uninstall shows that edgebox leaves nothing behind, and takes nothing that is not its own.
package uninstall

import (
	"context"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestMain(m *testing.M) { framework.Main(m) }

// footprint is all that a host has, by kind.
func footprint(t *testing.T, h *framework.Host) map[string][]string {
	t.Helper()
	tables, err := h.NFTables()
	if err != nil {
		t.Fatal(err)
	}
	lines := func(script string) []string {
		return strings.Split(h.Shell(t, script), "\n")
	}
	return map[string][]string{
		"nftables table": tables,
		"mount":          lines(`awk '{print $5 (/ shared:/ ? " (shared)" : "")}' /proc/self/mountinfo | sort`),
		"link":           lines(`ls /sys/class/net`),
		"route":          lines(`ip route; ip rule`),
		"cgroup":         lines(`find /sys/fs/cgroup -type d | sort`),
		// busybox' timeout outlives the command that it watches by up to a second.
		"process": lines(`for p in /proc/[0-9]*; do [ $p = /proc/self ] || cat $p/comm; done 2>/dev/null | grep -vE '^(sh|cat|sort|grep|timeout)$' | sort`),
		// What the box wrote while it ran; the program and the user's configuration are not edgebox' to remove.
		"file": lines(`find / -xdev ! -path /usr/local/bin/edgebox | sort; find /run /tmp /dev | sort`),
	}
}

// compare reports what is there now and was not before, and the other way round.
func compare(t *testing.T, before, after map[string][]string) {
	t.Helper()
	for _, kind := range slices.Sorted(maps.Keys(before)) {
		for _, x := range after[kind] {
			if slices.Contains(before[kind], x) {
				continue
			}
			if parent := path.Dir(x); kind == "file" && slices.Contains(after[kind], parent) && !slices.Contains(before[kind], parent) {
				continue // reported with the folder that it is in
			}
			t.Errorf("left behind: %s %s", kind, x)
		}
		for _, x := range before[kind] {
			if !slices.Contains(after[kind], x) {
				t.Errorf("taken away: %s %s", kind, x)
			}
		}
	}
}

// used boots a cluster with a bit of everything that leaves traces, beside things of others.
func used(t *testing.T, h *framework.Host) {
	t.Helper()
	h.Up(t)
	images, err := framework.Images()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Import(t.Context(), images...); err != nil {
		t.Fatal(err)
	}
	n := h.Namespace(t)
	n.Kubectl("create", "secret", "generic", "s", "--from-literal=a=b")
	n.Apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      volumes:
      - {name: e, emptyDir: {medium: Memory}}
      - {name: s, secret: {secretName: s}}
      containers:
      - name: web
        image: web:1
        ports: [{containerPort: 80}]
        volumeMounts: [{name: e, mountPath: /e}, {name: s, mountPath: /s}]
---
apiVersion: v1
kind: Pod
metadata: {name: port}
spec:
  containers: [{name: web, image: "web:1", ports: [{containerPort: 80, hostPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80}]`)
	n.WaitFor("deployment/web", "Available")
	n.WaitFor("pod/port", "Ready")
	framework.Eventually(t, framework.Patience, func() error {
		_, err := h.Run(t.Context(), "timeout", "3", "wget", "-qO-", "http://"+h.Address.String()+":8080")
		return err
	})
}

func TestUninstallLeavesNothing(t *testing.T) {
	framework.NeedEdgebox(t)
	for _, c := range []struct {
		name   string
		before func(t *testing.T, h *framework.Host)
	}{
		{"running", func(*testing.T, *framework.Host) {}},
		{"killed", func(t *testing.T, h *framework.Host) {
			if err := h.Kill9(); err != nil {
				t.Fatal(err)
			}
		}},
		{"stopped", func(t *testing.T, h *framework.Host) {
			if out, err := h.Edgebox(t.Context(), "stop"); err != nil {
				t.Fatal(out, err)
			}
		}},
		{"stopped with pods", func(t *testing.T, h *framework.Host) {
			if out, err := h.Edgebox(t.Context(), "stop", "--pods"); err != nil {
				t.Fatal(out, err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := framework.NewHost(t, framework.Options{})
			// Of others: a mount, a link, files.
			h.Shell(t, "mkdir -p /mnt/foreign; mount -t tmpfs tmpfs /mnt/foreign; ip link add br7 type bridge; mkdir -p /etc/cni/net.d /opt/cni/bin; touch /etc/cni/net.d/theirs /opt/cni/bin/theirs")
			before := footprint(t, h)
			used(t, h)
			c.before(t, h)
			out, err := h.Edgebox(t.Context(), "uninstall", "--yes")
			if err != nil {
				t.Fatalf("uninstall: %v\n%s", err, out)
			}
			if !strings.Contains(out, "nothing") {
				t.Errorf("uninstall does not say that nothing is left:\n%s", out)
			}
			compare(t, before, footprint(t, h))

			// Again, and on a host where there is nothing to do.
			if out, err := h.Edgebox(t.Context(), "uninstall", "--yes"); err != nil {
				t.Errorf("second uninstall: %v\n%s", err, out)
			}
			// And a fresh install works.
			if c.name == "killed" {
				h.Up(t)
			}
		})
	}
}

// TestBareBox: where no systemd has made mounts shared, they are as long as edgebox needs them; and pods start on a box
// that has no /etc/resolv.conf.
func TestBareBox(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.NewHost(t, framework.Options{})
	h.Shell(t, "mount --make-rprivate /; rm /etc/resolv.conf")
	before := footprint(t, h)
	h.Up(t)
	if err := h.Import(t.Context(), framework.Busybox()); err != nil {
		t.Fatal(err)
	}
	n := h.Namespace(t)
	n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: driver}
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - {name: host, hostPath: {path: /}}
  - {name: kubelet, hostPath: {path: /var/lib/kubelet}}
  containers:
  - name: c
    image: busybox:e2e
    command: [sleep, "10000"]
    securityContext: {privileged: true}
    volumeMounts:
    - {name: host, mountPath: /host, mountPropagation: HostToContainer}
    - {name: kubelet, mountPath: /var/lib/kubelet, mountPropagation: Bidirectional}`)
	n.WaitFor("pod/driver", "Ready")
	n.Kubectl("exec", "driver", "--", "sh", "-c", "mkdir /var/lib/kubelet/volume && mount -t tmpfs volume /var/lib/kubelet/volume && touch /var/lib/kubelet/volume/seen")
	h.Shell(t, "ls /var/lib/kubelet/volume/seen && mkdir /later && mount -t tmpfs later /later && touch /later/seen")
	n.Kubectl("exec", "driver", "--", "ls", "/host/later/seen")
	h.Shell(t, "umount /later && rmdir /later")
	if out, err := h.Edgebox(t.Context(), "uninstall", "--yes"); err != nil {
		t.Fatalf("uninstall: %v\n%s", err, out)
	}
	compare(t, before, footprint(t, h))
}

func TestUninstallAsks(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.NewHost(t, framework.Options{})
	if err := h.Start("--disable-agent"); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	out, err := h.Edgebox(t.Context(), "uninstall")
	if err == nil || !strings.Contains(out+err.Error(), "--yes") {
		t.Errorf("uninstall without --yes and without a terminal: %s %v", out, err)
	}
	if err := h.WaitAPI(context.WithoutCancel(t.Context())); err != nil {
		t.Errorf("the server is gone: %v", err)
	}
}

func TestStopWithPods(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.NewHost(t, framework.Options{})
	used(t, h)
	if out, err := h.Edgebox(t.Context(), "stop"); err != nil {
		t.Fatal(out, err)
	}
	if left := h.Shell(t, "pidof web || true"); len(strings.Fields(left)) != 3 {
		t.Errorf("after stop, web servers %q are left, want 3", left)
	}
	if err := h.Exit(t.Context()); err != nil {
		t.Errorf("the server ended with %v", err)
	}
	if out, err := h.Edgebox(t.Context(), "stop", "--pods"); err != nil {
		t.Fatal(out, err)
	}
	left := h.Shell(t, "ps -o comm | grep -E '^(web|pause|containerd-shim|edgebox)' || true")
	if left != "" {
		t.Errorf("after stop --pods: %s", left)
	}
	// The pods come back.
	h.Up(t)
	framework.Eventually(t, framework.Patience, func() error {
		_, err := h.Run(t.Context(), "timeout", "3", "wget", "-qO-", "http://"+h.Address.String()+":8080")
		return err
	})
}
