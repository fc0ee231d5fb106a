// Package restart shows that edgebox can be killed, stopped, started again and lose its power at any moment: pods that
// ran run on, and no acknowledged write is lost.
package restart

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestMain(m *testing.M) { framework.Main(m) }

// workload is a web server behind a Service, and a client.
const workload = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: web, image: web:1}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
`

// running is the state of a workload that must not change.
type running struct {
	n          *framework.Namespace
	containers string
	pids       []string
	service    string // address
}

func start(t *testing.T, h *framework.Host) running {
	t.Helper()
	n := h.Namespace(t)
	n.Apply(workload)
	n.Client()
	n.WaitFor("pod/web", "Ready")
	n.WantPage("http://web", "Hello from web")
	return running{
		n: n, service: n.Get("service/web", "{.spec.clusterIP}"),
		containers: containers(n),
		pids:       append(n.Processes("web"), n.Processes("client")...),
	}
}

func containers(n *framework.Namespace) string {
	return n.Get("pods", `{range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount} {.status.podIP}{"\n"}{end}`)
}

// check fails the test unless the same containers still run, and serve.
func (r running) check(t *testing.T) {
	t.Helper()
	framework.Eventually(t, framework.Patience, func() error {
		if got := containers(r.n); got != r.containers {
			return fmt.Errorf("containers are\n%s\nbefore\n%s", got, r.containers)
		}
		return nil
	})
	now := append(r.n.Processes("web"), r.n.Processes("client")...)
	for _, pid := range r.pids {
		if !slices.Contains(now, pid) {
			t.Errorf("processes are %v, before %v", now, r.pids)
		}
	}
	r.n.WaitFor("pod/web", "Ready")
	r.n.WantPage("http://web", "Hello from web")
}

func TestStopLeavesPodsRunning(t *testing.T) {
	t.Parallel()
	h := framework.Cluster(t)
	r := start(t, h)
	begin := time.Now()
	if err := h.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the stop took %s", took)
	}
	// While edgebox is away, the Service still leads to the pod.
	for range 3 {
		if page := h.Shell(t, "timeout 5 wget -qO- http://"+r.service); !strings.Contains(page, "Hello from web") {
			t.Errorf("page while edgebox is stopped: %s", page)
		}
	}
	h.Up(t)
	r.check(t)

	// A container that ends meanwhile is noticed.
	if err := h.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	h.Shell(t, "for p in /proc/[0-9]*; do case $(readlink $p/exe) in */web) kill -9 ${p#/proc/};; esac; done")
	h.Up(t)
	r.n.Want("pod/web", "{.status.containerStatuses[0].restartCount}", "1")
	r.n.WaitFor("pod/web", "Ready")
	r.n.WantPage("http://web", "Hello from web")
}

func TestKilledAtAnyMomentOfBoot(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.NewHost(t, framework.Options{})
	for _, after := range []time.Duration{20, 200, 500, 900, 1400, 2000, 3000, 4500, 7000} {
		after *= time.Millisecond
		after += rand.N(after / 4)
		if err := h.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after) // the moment of the kill
		if err := h.Kill9(); err != nil {
			t.Fatalf("killed after %s: %v", after, err)
		}
	}
	h.Up(t)
	images, err := framework.Images()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Import(t.Context(), images...); err != nil {
		t.Fatal(err)
	}
	start(t, h).check(t)
}

func TestKilledUnderLoad(t *testing.T) {
	t.Parallel()
	h := framework.Cluster(t)
	r := start(t, h)
	w := &writers{acked: make(map[string]outcome)}
	for range 3 {
		api, err := h.API()
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := w.run(ctx, api, r.n.Name)
		time.Sleep(time.Second + rand.N(time.Second)) // the moment of the kill
		if err := h.Kill9(); err != nil {
			t.Fatal(err)
		}
		stop()
		<-done
		api.Close()
		h.Up(t)
		r.check(t)
		w.check(t, h, r.n.Name)
	}
	if len(w.acked) < 50 {
		t.Errorf("only %d objects were written", len(w.acked))
	}
}

func TestPowerCut(t *testing.T) {
	t.Parallel()
	h := framework.Cluster(t)
	r := start(t, h)
	api, err := h.API()
	if err != nil {
		t.Fatal(err)
	}
	w := &writers{acked: make(map[string]outcome)}
	ctx, stop := context.WithCancel(t.Context())
	done := w.run(ctx, api, r.n.Name)
	time.Sleep(time.Second) // the moment of the cut
	stop()
	if err := h.Reboot(); err != nil {
		t.Fatal(err)
	}
	<-done
	api.Close()
	h.Up(t)
	// The pods are the same, their containers new.
	framework.Eventually(t, framework.Patience, func() error {
		if got := r.n.Get("pods", "{.items[*].status.containerStatuses[0].restartCount}"); got != "1 1" {
			return fmt.Errorf("restarts: %s", got)
		}
		return nil
	})
	r.n.WaitFor("pod/web", "Ready")
	r.n.WaitFor("pod/client", "Ready")
	r.n.WantPage("http://web", "Hello from web")
	w.check(t, h, r.n.Name)
}

// writers make, change and delete ConfigMaps and remember what the API server has acknowledged.
type writers struct {
	mu    sync.Mutex
	round int
	acked map[string]outcome
}

// outcome is what may be found of an object: its last acknowledged value or, when the write after that one got no
// answer, what that one wrote. A value of 0 is no object.
type outcome struct{ acked, maybe int }

type configMap struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   metadata          `json:"metadata"`
	Data       map[string]string `json:"data"`
}

type metadata struct {
	Name string `json:"name"`
}

// run writes until ctx ends or the server is gone.
func (w *writers) run(ctx context.Context, api *framework.API, namespace string) <-chan struct{} {
	w.mu.Lock()
	w.round++
	round := w.round
	w.mu.Unlock()
	var wg sync.WaitGroup
	for writer := range 8 {
		wg.Go(func() {
			path := "/api/v1/namespaces/" + namespace + "/configmaps"
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("load-%d-%d-%d", round, writer, i)
				object := configMap{"v1", "ConfigMap", metadata{name}, map[string]string{"value": "1"}}
				if !w.do(api, "POST", path, name, &object, 1) {
					return
				}
				object.Data["value"] = "2"
				if !w.do(api, "PUT", path+"/"+name, name, &object, 2) {
					return
				}
				if i%3 == 0 && !w.do(api, "DELETE", path+"/"+name, name, nil, 0) {
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	return done
}

// do makes one write, after which the object has the value, and notes whether it was acknowledged.
func (w *writers) do(api *framework.API, method, path, name string, body *configMap, value int) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var b any
	if body != nil {
		b = body
	}
	err := api.Do(ctx, method, path, b, nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	var refused *framework.StatusError
	switch {
	case err == nil:
		w.acked[name] = outcome{value, value}
	case !errors.As(err, &refused) || refused.Code >= 500: // it may have been carried out
		w.acked[name] = outcome{w.acked[name].acked, value}
	}
	return err == nil
}

func (w *writers) check(t *testing.T, h *framework.Host, namespace string) {
	t.Helper()
	api, err := h.API()
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	var list struct {
		Items []configMap `json:"items"`
	}
	if err := api.Do(t.Context(), "GET", "/api/v1/namespaces/"+namespace+"/configmaps", nil, &list); err != nil {
		t.Fatal(err)
	}
	found := make(map[string]int)
	for _, item := range list.Items {
		found[item.Metadata.Name], _ = strconv.Atoi(item.Data["value"])
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	lost := 0
	for name, want := range w.acked {
		if got := found[name]; got != want.acked && got != want.maybe {
			lost++
			t.Logf("%s has %d, acknowledged was %d, under way %d", name, got, want.acked, want.maybe)
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d acknowledged writes are lost", lost, len(w.acked))
	}
	t.Logf("%d objects are as acknowledged", len(w.acked)-lost)
}
