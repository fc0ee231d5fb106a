package framework

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// Patience is how long tests wait for what a cluster does within seconds when it has the machine to itself.
const Patience = 2 * time.Minute

// Images are those that tests may use in pods: busybox:e2e, web:1 and web:2.
func Images() ([]Image, error) {
	one, err := Web("1")
	if err != nil {
		return nil, err
	}
	two, err := Web("2")
	return []Image{Busybox(), one, two}, err
}

var sharedHost = sync.OnceValues(func() (*Host, error) {
	h, err := Boot(Options{})
	if err != nil {
		return nil, err
	}
	if err := h.Start(); err != nil {
		return h, err
	}
	images, err := Images()
	if err != nil {
		return h, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), BootTimeout)
	defer cancel()
	if err := h.WaitReady(ctx); err != nil {
		return h, err
	}
	return h, h.Import(ctx, images...)
})

// Shared returns the one cluster of the package's tests, with Images. The first call boots it; Main ends it.
func Shared(t testing.TB) *Host {
	t.Helper()
	h, err := sharedHost()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// Cluster boots a host with a ready server and Images for one test.
func Cluster(t testing.TB, flags ...string) *Host {
	t.Helper()
	NeedEdgebox(t)
	h := NewHost(t, Options{})
	h.Up(t, flags...)
	images, err := Images()
	if err == nil {
		err = h.Import(t.Context(), images...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// FormCluster makes one cluster of hosts that have booted: it starts a server with more flags, joins the agents, and puts
// images on all.
func FormCluster(ctx context.Context, server *Host, agents []*Host, images []Image, flags ...string) error {
	if err := server.Start(flags...); err != nil {
		return err
	}
	if err := server.WaitReady(ctx); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, 1+len(agents))
	wg.Go(func() { errs[0] = server.Import(ctx, images...) })
	for i, a := range agents {
		wg.Go(func() {
			err := a.StartAgentOf(server)
			if err == nil {
				err = a.WaitReady(ctx)
			}
			if err == nil {
				err = a.Import(ctx, images...)
			}
			errs[1+i] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// NeedEdgebox fails the test when there is no edgebox to test.
func NeedEdgebox(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(EdgeboxBinary()); err != nil {
		t.Fatalf("there is no edgebox to test (%v): make build, or set EDGEBOX_BIN", err)
	}
}

// Namespace is a Kubernetes namespace of one test, and kubectl in it.
type Namespace struct {
	Name string
	Host *Host
	t    testing.TB
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// Namespace makes a namespace that is named after the test and removed at its end. When the test has failed, what
// happened in the namespace is logged.
func (h *Host) Namespace(t testing.TB) *Namespace {
	t.Helper()
	name := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(strings.TrimPrefix(t.Name(), "Test")), "-"), "-")
	if len(name) > 55 { // DNS labels have 63 characters
		name = strings.Trim(name[:55], "-")
	}
	n := &Namespace{Name: name, Host: h, t: t}
	n.Kubectl("create", "namespace", name)
	n.Kubectl("wait", "--for=create", "serviceaccount/default")
	t.Cleanup(func() {
		if t.Failed() {
			n.dump()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		// Failures show in other tests, or do not matter.
		_, _ = h.Kubectl(ctx, "delete", "namespace", name, "--wait=false")
		_, _ = h.Kubectl(ctx, "-n", name, "delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false")
	})
	return n
}

func (n *Namespace) dump() {
	n.t.Helper()
	for _, args := range [][]string{
		{"get", "all,endpointslices", "-o", "wide"},
		{"describe", "pods"},
		{"events"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		out, err := n.Host.Kubectl(ctx, append([]string{"-n", n.Name}, args...)...)
		cancel()
		n.t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	n.t.Logf("end of the server's log:\n%s", tail(n.Host.Logs(), 30))
}

// Try runs kubectl in the namespace.
func (n *Namespace) Try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), Patience)
	defer cancel()
	out, err := n.Host.Kubectl(ctx, append([]string{"-n", n.Name}, args...)...)
	return strings.TrimSpace(out), err
}

// Kubectl runs kubectl in the namespace, and fails the test when kubectl fails.
func (n *Namespace) Kubectl(args ...string) string {
	n.t.Helper()
	out, err := n.Try(args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// Refused runs kubectl in the namespace, and fails the test unless it fails and its message has want in it, in
// capitals or not.
func (n *Namespace) Refused(want string, args ...string) {
	n.t.Helper()
	out, err := n.Try(args...)
	if err == nil {
		n.t.Fatalf("kubectl %s was not refused: %s", strings.Join(args, " "), out)
	}
	if !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) {
		n.t.Fatalf("kubectl %s: got %v, want %q", strings.Join(args, " "), err, want)
	}
}

// Apply applies a manifest.
func (n *Namespace) Apply(manifest string, flags ...string) {
	n.t.Helper()
	if err := n.TryApply(manifest, flags...); err != nil {
		n.t.Fatal(err)
	}
}

// TryApply applies a manifest, with more flags for kubectl apply.
func (n *Namespace) TryApply(manifest string, flags ...string) error {
	ctx, cancel := context.WithTimeout(n.t.Context(), Patience)
	defer cancel()
	args := append([]string{Binary, "kubectl", "-n", n.Name, "apply", "-f", "-"}, flags...)
	cmd := n.Host.Command(ctx, args...)
	cmd.Stdin = strings.NewReader(manifest)
	_, err := cmd.Output()
	return err
}

// Get returns the fields of an object that a JSONPath template chooses.
func (n *Namespace) Get(object, jsonPath string) string {
	n.t.Helper()
	return n.Kubectl("get", object, "-o", "jsonpath="+jsonPath)
}

// Want waits until a field of the object, which may not exist yet, has the value.
func (n *Namespace) Want(object, jsonPath, value string) {
	n.t.Helper()
	var last string
	Eventually(n.t, Patience, func() error {
		// kubectl wait spares polling, but gives up on objects and fields that do not exist.
		_, err := n.Try("wait", object, "--for=jsonpath="+jsonPath+"="+value, "--timeout=20s")
		if err != nil {
			last, _ = n.Try("get", object, "-o", "jsonpath="+jsonPath)
			return fmt.Errorf("%s: %s is %q, want %q: %w", object, jsonPath, last, value, err)
		}
		return nil
	})
}

// WaitFor waits for a condition of an object, such as Available of a Deployment.
func (n *Namespace) WaitFor(object, condition string) {
	n.t.Helper()
	Eventually(n.t, Patience, func() error {
		_, err := n.Try("wait", object, "--for=condition="+condition, "--timeout=60s")
		return err
	})
}

// Exec runs a command in a pod and returns its output; the error tells its exit code.
func (n *Namespace) Exec(pod string, args ...string) (string, error) {
	return n.Try(append([]string{"exec", pod, "--"}, args...)...)
}

// Client makes a pod called client, in which a shell and wget are at hand.
func (n *Namespace) Client() {
	n.t.Helper()
	n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: client, image: busybox:e2e, command: [sleep, infinity]}]`)
	n.WaitFor("pod/client", "Ready")
}

// Fetch gets a page from within the client pod. (Debian's static wget crashes when it is given a time limit itself.)
func (n *Namespace) Fetch(url string) (string, error) {
	return n.Exec("client", "timeout", "5", "wget", "-q", "-O", "-", url)
}

// WantPage waits until a page fetched from within the client pod has want in it, and returns the page.
func (n *Namespace) WantPage(url, want string) string {
	n.t.Helper()
	var page string
	Eventually(n.t, Patience, func() error {
		var err error
		page, err = n.Fetch(url)
		if err == nil && !strings.Contains(page, want) {
			err = fmt.Errorf("%s has no %q: %s", url, want, page)
		}
		return err
	})
	return page
}

// Processes lists the first processes of a pod's containers, the pause container's included, by their ids on the host.
func (n *Namespace) Processes(pod string) []string {
	n.t.Helper()
	uid := n.Get("pod/"+pod, "{.metadata.uid}")
	pattern := uid + "|" + strings.ReplaceAll(uid, "-", "_") // the systemd driver's way to write it
	return strings.Fields(n.Host.Shell(n.t,
		`cd /proc; for p in [0-9]*; do
			if grep -qE '`+pattern+`' $p/cgroup && grep -q '^NSpid:.*[^0-9]1$' $p/status; then echo $p; fi
		done 2>/dev/null`))
}

// ContainerIDs lists the running containers of all pods of the cluster: namespace/pod/container and id, sorted.
func (h *Host) ContainerIDs(ctx context.Context) (string, error) {
	return h.Kubectl(ctx, "get", "pods", "-A", "--sort-by=.metadata.uid", "-o",
		`jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{range .status.containerStatuses[*]} {.name} {.containerID}{end}{"\n"}{end}`)
}
