package kubernetes

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestLogs(t *testing.T) {
	n := namespace(t)
	n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: talks}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: d, emptyDir: {}}]
  containers:
  - name: main
    image: busybox:e2e
    command: [sh, -c, "for i in 1 2 3; do echo line $i; done; test -e /d/once || { touch /d/once; exit 1; }; until test -e /d/go; do sleep 0.2; done; echo end; sleep infinity"]
    volumeMounts: [{name: d, mountPath: /d}]
  - {name: other, image: "busybox:e2e", command: [sh, -c, "echo other; sleep infinity"]}`)
	n.Want("pod/talks", "{.status.containerStatuses[0].restartCount}", "1")
	n.WaitFor("pod/talks", "Ready")
	for _, c := range []struct{ want, args string }{
		{"line 1\nline 2\nline 3", "-c main"},
		{"line 3", "-c main --tail=1"},
		{"line 1\nline 2\nline 3", "-c main --previous"},
		{"other", "-c other"},
	} {
		framework.Eventually(t, framework.Patience, func() error {
			got, err := n.Try(append([]string{"logs", "talks"}, strings.Fields(c.args)...)...)
			if err == nil && got != c.want {
				err = fmt.Errorf("logs %s: %q, want %q", c.args, got, c.want)
			}
			return err
		})
	}
	if got := n.Kubectl("logs", "talks", "-c", "main", "--tail=1", "--timestamps"); !strings.HasSuffix(got, "Z line 3") && !strings.Contains(got, " line 3") {
		t.Errorf("with time stamps: %s", got)
	}

	var out safeBuffer
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	follow := n.Host.Command(ctx, framework.Binary, "kubectl", "-n", n.Name, "logs", "-f", "talks", "-c", "main")
	follow.Stdout = &out
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	framework.Eventually(t, framework.Patience, func() error { return out.has("line 3") })
	n.Kubectl("exec", "talks", "-c", "main", "--", "touch", "/d/go")
	framework.Eventually(t, framework.Patience, func() error { return out.has("end") })
}

// safeBuffer is written by a command while a test reads.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) has(want string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !strings.Contains(b.buf.String(), want) {
		return fmt.Errorf("no %q in the output: %s", want, b.buf.String())
	}
	return nil
}

func TestExec(t *testing.T) {
	n := namespace(t)
	n.Client()
	if out, err := n.Exec("client", "sh", "-c", "echo out; echo err >&2; exit 3"); framework.ExitCode(err) != 3 || out != "out" || !strings.Contains(err.Error(), "err") {
		t.Errorf("got %q, %v", out, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), framework.Patience)
	defer cancel()
	cmd := n.Host.Command(ctx, framework.Binary, "kubectl", "-n", n.Name, "exec", "-i", "client", "--", "sha256sum")
	text := strings.Repeat("edgebox\n", 1<<17)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	if err != nil || !strings.HasPrefix(out, fmt.Sprintf("%x ", sha256.Sum256([]byte(text)))) {
		t.Errorf("1 MiB through stdin: %q, %v", out, err)
	}
	n.Refused("not found", "exec", "no-such-pod", "--", "true")
	n.Refused("no-such-command", "exec", "client", "--", "no-such-command")
}

func TestAttach(t *testing.T) {
	n := namespace(t)
	n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: "busybox:e2e", stdin: true, stdinOnce: true, command: [sh, -c, "while read l; do echo got $l; done"]}`)
	n.WaitFor("pod/echo", "Ready")
	ctx, cancel := context.WithTimeout(t.Context(), framework.Patience)
	defer cancel()
	attach := n.Host.Command(ctx, framework.Binary, "kubectl", "-n", n.Name, "attach", "-i", "echo")
	attach.Stdin = strings.NewReader("hello\nworld\n")
	if out, err := attach.Output(); err != nil || !strings.Contains(out, "got hello\ngot world\n") {
		t.Errorf("got %q, %v", out, err)
	}
	n.Want("pod/echo", "{.status.phase}", "Succeeded") // its stdin has ended
}

func TestPortForward(t *testing.T) {
	n := namespace(t)
	n.Apply(webDeployment + "---" + webService)
	n.WaitFor("deployment/web", "Available")
	ctx, cancel := context.WithCancel(t.Context())
	var out safeBuffer
	forward := n.Host.Command(ctx, framework.Binary, "kubectl", "-n", n.Name, "port-forward", "service/web", "18080:80")
	forward.Stdout, forward.Stderr = &out, &out
	if err := forward.Start(); err != nil {
		t.Fatal(err)
	}
	framework.Eventually(t, framework.Patience, func() error { return out.has("Forwarding from 127.0.0.1:18080") })
	for range 3 {
		if page := n.Host.Shell(t, "timeout 10 wget -qO- http://127.0.0.1:18080"); !strings.Contains(page, "Hello from web-") {
			t.Errorf("page: %s", page)
		}
	}
	cancel()
	if err := forward.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("port-forward ended with %v", err)
	}
}

func TestCopy(t *testing.T) {
	n := namespace(t)
	n.Client()
	dir := "/tmp/" + n.Name
	n.Host.Shell(t, "mkdir -p "+dir+"/in/deep; cd "+dir+"/in; echo a >a; head -c 3000000 /dev/urandom >deep/b")
	n.Kubectl("cp", dir+"/in", "client:/tmp/in")
	if _, err := n.Exec("client", "test", "-s", "/tmp/in/deep/b"); err != nil {
		t.Fatal(err)
	}
	n.Kubectl("cp", "client:/tmp/in", dir+"/out")
	n.Host.Shell(t, "diff -r "+dir+"/in "+dir+"/out")
}

func TestEventsTellOfAPod(t *testing.T) {
	n := namespace(t)
	n.Client()
	framework.Eventually(t, framework.Patience, func() error {
		events := n.Kubectl("events", "--for", "pod/client")
		for _, reason := range []string{"Scheduled", "Pulled", "Created", "Started"} {
			if !strings.Contains(events, reason) {
				return fmt.Errorf("no event %s:\n%s", reason, events)
			}
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var out safeBuffer
	watch := n.Host.Command(ctx, framework.Binary, "kubectl", "-n", n.Name, "events", "--watch")
	watch.Stdout = &out
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	framework.Eventually(t, framework.Patience, func() error { return out.has("Started") })
}

func TestPodIsDeletedInTime(t *testing.T) {
	n := namespace(t)
	n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: tidy}
spec:
  volumes: [{name: d, hostPath: {path: /var/lib/` + n.Name + `, type: DirectoryOrCreate}}]
  containers:
  - name: c
    image: busybox:e2e
    command: [sh, -c, "trap 'echo asked >/d/end; exit 0' TERM; touch /d/up; while :; do sleep 0.1; done"]
    volumeMounts: [{name: d, mountPath: /d}]`)
	framework.Eventually(t, framework.Patience, func() error {
		_, err := n.Exec("tidy", "test", "-e", "/d/up")
		return err
	})
	n.Kubectl("delete", "pod", "tidy", "--timeout=25s") // less than the grace period of 30 s: the shell ends at SIGTERM
	if got := n.Host.Shell(t, "cat /var/lib/"+n.Name+"/end"); got != "asked" {
		t.Errorf("the pod has written %q", got)
	}
}
