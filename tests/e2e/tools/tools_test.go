// Package tools shows that edgebox' commands tell the truth about a running node.
package tools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestMain(m *testing.M) { framework.Main(m) }

type status struct {
	Node       string
	Role       string
	PID        int
	Ready      bool
	Components []struct {
		Name  string
		State string
		Since time.Time
		Error string
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.Shared(t)
	var s status
	framework.Eventually(t, framework.Patience, func() error {
		out, err := h.Edgebox(t.Context(), "status", "-o", "json")
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(out), &s); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if !s.Ready {
			return errors.New("not ready: " + out)
		}
		return nil
	})
	if s.Node != h.Name || s.Role != "server" || s.PID != h.PID() {
		t.Errorf("node %q, role %q, pid %d; want %q, server, %d", s.Node, s.Role, s.PID, h.Name, h.PID())
	}
	var names []string
	for _, c := range s.Components {
		names = append(names, c.Name)
		if c.State != "ready" || c.Since.IsZero() || c.Since.After(time.Now()) || c.Error != "" {
			t.Errorf("component %+v", c)
		}
	}
	for _, want := range []string{"datastore", "apiserver", "controller-manager", "scheduler", "containerd", "kubelet", "kube-proxy", "flannel", "dns"} {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, want) || strings.Contains(want, n) }) {
			t.Errorf("no %s among the components %v", want, names)
		}
	}
	out, err := h.Edgebox(t.Context(), "status")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !strings.Contains(out, name) {
			t.Errorf("no %s in the table:\n%s", name, out)
		}
	}
}

func TestCommandsWithoutServer(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.NewHost(t, framework.Options{})
	for _, args := range [][]string{{"status"}, {"status", "-o", "json"}, {"images", "ls"}, {"kubeconfig"}, {"stop"}} {
		out, err := h.Edgebox(t.Context(), args...)
		if code := framework.ExitCode(err); code <= 0 || !strings.Contains(out+err.Error(), "edgebox") {
			t.Errorf("edgebox %s: exit code %d, %s %v", strings.Join(args, " "), code, out, err)
		}
	}
	if out, err := h.Edgebox(t.Context(), "no-such-command"); err == nil {
		t.Errorf("an unknown command: %s", out)
	}
	if left := h.Shell(t, "ls -A /run /var/lib/edgebox 2>/dev/null || true"); strings.Contains(left, "edgebox.sock") {
		t.Errorf("the commands have made %s", left)
	}
}

func TestImages(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.Shared(t)
	ctx := t.Context()
	image := framework.Busybox()
	image.Ref = "registry.example.test/team/tool:7"
	if err := h.Import(ctx, image); err != nil {
		t.Fatal(err)
	}
	list := func() string {
		t.Helper()
		out, err := h.Edgebox(ctx, "images", "ls")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := list(); !strings.Contains(out, "registry.example.test/team/tool") || !strings.Contains(out, "busybox") {
		t.Errorf("images:\n%s", out)
	}
	if out, err := h.Edgebox(ctx, "images", "export", "--help"); err != nil {
		t.Errorf("%s %v", out, err)
	}
	export := h.Command(ctx, framework.Binary, "images", "export", "-o", "/tmp/tool.tar", image.Ref)
	if out, err := export.Output(); err != nil {
		t.Fatal(out, err)
	}
	if out, err := h.Edgebox(ctx, "images", "rm", image.Ref); err != nil {
		t.Fatal(out, err)
	}
	if out := list(); strings.Contains(out, "team/tool") {
		t.Errorf("after rm:\n%s", out)
	}
	if out, err := h.Edgebox(ctx, "images", "import", "/tmp/tool.tar"); err != nil || !strings.Contains(out, "team/tool:7") {
		t.Errorf("import of what was exported: %s %v", out, err)
	}
	if out := list(); !strings.Contains(out, "team/tool") {
		t.Errorf("after the import:\n%s", out)
	}
	n := h.Namespace(t)
	n.Kubectl("run", "tool", "--image="+image.Ref, "--image-pull-policy=Never", "--restart=Never", "--", "echo", "works")
	n.Want("pod/tool", "{.status.phase}", "Succeeded")

	h.Shell(t, "head -c 100000 /tmp/tool.tar >/tmp/short.tar; echo nonsense >/tmp/nonsense.tar")
	for _, file := range []string{"/tmp/short.tar", "/tmp/nonsense.tar", "/tmp/no-such-file.tar"} {
		if out, err := h.Edgebox(ctx, "images", "import", file); framework.ExitCode(err) <= 0 {
			t.Errorf("import %s: %s %v", file, out, err)
		}
	}
	if out, err := h.Edgebox(ctx, "images", "rm", "no-such-image:1"); framework.ExitCode(err) <= 0 {
		t.Errorf("rm of what is not there: %s %v", out, err)
	}
}

// TestImagesInUse: what pods need cannot be removed by mistake.
func TestImagesInUse(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.Shared(t)
	ctx := t.Context()
	image := framework.Busybox()
	image.Ref = "registry.example.test/team/inuse:1"
	image.Dirs = append(slices.Clone(image.Dirs), "inuse") // so that no other image has the same digest
	other := image
	other.Ref = "registry.example.test/team/inuse:2"
	if err := h.Import(ctx, image, other); err != nil {
		t.Fatal(err)
	}
	n := h.Namespace(t)
	n.Kubectl("run", "user", "--image="+image.Ref, "--image-pull-policy=Never", "--", "sleep", "1000")
	n.Want("pod/user", "{.status.phase}", "Running")

	const pause = "edgebox.internal/pause:1"
	for _, refused := range []struct {
		args []string
		says string
	}{
		{[]string{image.Ref}, "in use by pod " + n.Name + "/user"},
		{[]string{pause}, "every pod needs this image"},
		{[]string{"--force", pause}, "every pod needs this image"},
	} {
		out, err := h.Edgebox(ctx, append([]string{"images", "rm"}, refused.args...)...)
		if framework.ExitCode(err) <= 0 || !strings.Contains(out+err.Error(), refused.says) {
			t.Errorf("rm %v: %s %v, want %q", refused.args, out, err, refused.says)
		}
	}
	if out, err := h.Edgebox(ctx, "images", "ls", "-q"); err != nil || !strings.Contains(out, image.Ref) || !strings.Contains(out, pause) {
		t.Errorf("what could not be removed is gone: %s %v", out, err)
	}
	if out, err := h.Edgebox(ctx, "images", "rm", other.Ref); err != nil {
		t.Errorf("rm of a tag that no pod asks for: %s %v", out, err)
	}
	if out, err := h.Edgebox(ctx, "images", "rm", "--force", image.Ref); err != nil {
		t.Errorf("rm --force: %s %v", out, err)
	}
	if out := n.Kubectl("exec", "user", "--", "echo", "runs on"); !strings.Contains(out, "runs on") {
		t.Errorf("after rm --force: %s", out)
	}
	// The last tag is held by who runs it under another name; and once that has ended, by nobody.
	if err := h.Import(ctx, other); err != nil {
		t.Fatal(err)
	}
	if out, err := h.Edgebox(ctx, "images", "rm", other.Ref); framework.ExitCode(err) <= 0 {
		t.Errorf("rm of the last tag of what runs: %s", out)
	}
	n.Kubectl("delete", "pod", "user", "--now")
	if out, err := h.Edgebox(ctx, "images", "rm", other.Ref); err != nil {
		t.Errorf("rm after the pod: %s %v", out, err)
	}
}

func TestKubeconfig(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.Shared(t)
	out, err := h.Edgebox(t.Context(), "kubeconfig")
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(h.File(framework.Kubeconfig))
	if err != nil || !strings.Contains(out, "client-certificate-data") {
		t.Errorf("edgebox kubeconfig: %v\n%s", err, out)
	}
	if mode := h.Shell(t, "stat -c %a "+framework.Kubeconfig); mode != "600" {
		t.Errorf("mode %s of %s", mode, framework.Kubeconfig)
	}
	_ = file
	if err := h.WriteFile("/tmp/kubeconfig", out); err != nil {
		t.Fatal(err)
	}
	if out, err := h.Kubectl(t.Context(), "--kubeconfig=/tmp/kubeconfig", "get", "nodes"); err != nil || !strings.Contains(out, h.Name) {
		t.Errorf("with this kubeconfig: %s %v", out, err)
	}
}

func TestCheckTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.NewHost(t, framework.Options{})
	if out, err := h.Edgebox(t.Context(), "check"); err != nil {
		t.Errorf("on a good host: %s %v", out, err)
	}
	h.Shell(t, "httpd -f -p 6443 >/dev/null 2>&1 & until netstat -lnt | grep -q :6443; do sleep 0.1; done; hostname Bad_Name")
	out, err := h.Edgebox(t.Context(), "check")
	if framework.ExitCode(err) <= 0 {
		t.Fatalf("on a bad host: %s %v", out, err)
	}
	for _, want := range []string{"6443", "bad_name"} {
		if !strings.Contains(out+err.Error(), want) {
			t.Errorf("check does not tell of %s:\n%s%v", want, out, err)
		}
	}
}

// TestChangedTokenRevokesTheFormer, and no token that somebody else has made.
func TestChangedTokenRevokesTheFormer(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.NewHost(t, framework.Options{})
	ctx := t.Context()
	const first, second, users = "aaaaaa.0123456789abcdef", "bbbbbb.0123456789abcdef", "cccccc.0123456789abcdef"
	is := func(token, want string) {
		t.Helper()
		framework.Eventually(t, framework.Patience, func() error {
			out, err := h.Kubectl(ctx, "--kubeconfig=/dev/null", "--server=https://127.0.0.1:6443", "--insecure-skip-tls-verify", "--token="+token, "auth", "whoami")
			if err != nil {
				out += err.Error()
			}
			if !strings.Contains(out, want) {
				return fmt.Errorf("token %s: %s, want %s", token, out, want)
			}
			return nil
		})
	}
	start := func(flags ...string) {
		t.Helper()
		if err := h.Start(append(flags, "--disable-agent")...); err != nil {
			t.Fatal(err)
		}
		if err := h.WaitAPI(ctx); err != nil {
			t.Fatal(err)
		}
	}
	stop := func() {
		t.Helper()
		if out, err := h.Edgebox(ctx, "stop"); err != nil {
			t.Fatal(out, err)
		}
		if err := h.Exit(ctx); err != nil {
			t.Fatal(err)
		}
	}

	start("--token=" + first)
	is(first, "system:bootstrappers:edgebox")
	if out, err := h.Kubectl(ctx, "create", "secret", "generic", "bootstrap-token-cccccc", "-n", "kube-system", "--type=bootstrap.kubernetes.io/token",
		"--from-literal=token-id=cccccc", "--from-literal=token-secret=0123456789abcdef", "--from-literal=usage-bootstrap-authentication=true"); err != nil {
		t.Fatal(out, err)
	}
	is(users, "system:bootstrap:cccccc")
	stop()

	start("--token=" + second)
	is(second, "system:bootstrappers:edgebox")
	is(first, "Unauthorized")
	is(users, "system:bootstrap:cccccc")
	before := h.Shell(t, "ls -i /var/lib/edgebox/server/token; cat /var/lib/edgebox/server/token")
	if !strings.HasSuffix(before, "::"+second) {
		t.Errorf("the token's file holds %s", before)
	}
	stop()

	start() // without the flag the token stays, and so does its file
	is(second, "system:bootstrappers:edgebox")
	if after := h.Shell(t, "ls -i /var/lib/edgebox/server/token; cat /var/lib/edgebox/server/token"); after != before {
		t.Errorf("the token's file was %s, is %s", before, after)
	}
}

// TestOldKernel: the version of a kernel, which here is that of Debian 11, keeps nothing from running that it can do.
func TestOldKernel(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.NewHost(t, framework.Options{})
	h.Shell(t, "echo 5.10.0-28-amd64 >/tmp/osrelease && mount --bind /tmp/osrelease /proc/sys/kernel/osrelease")
	h.Up(t)
	framework.Eventually(t, framework.Patience, func() error {
		tables, err := h.NFTables()
		if err != nil {
			return err
		}
		if !slices.Contains(tables, "ip kube-proxy") {
			return fmt.Errorf("kube-proxy has no table among %v", tables)
		}
		return nil
	})
}

func TestVersionAndCompletion(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.NewHost(t, framework.Options{})
	out, err := h.Edgebox(t.Context(), "version")
	if err != nil || !strings.Contains(out, "1.37") {
		t.Errorf("version: %s %v", out, err)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		out, err := h.Edgebox(t.Context(), "completion", shell)
		if err != nil || !strings.Contains(out, "edgebox") {
			t.Errorf("completion %s: %.200s %v", shell, out, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := h.Kubectl(ctx, "version", "--client"); err != nil || !strings.Contains(out, "v1.37") {
		t.Errorf("kubectl version: %s %v", out, err)
	}
}
