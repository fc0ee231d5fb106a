package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/edgebox/edgebox/tests/framework"
)

// object is a Kubernetes object, or a part of one, as JSON has it.
type object = map[string]any

// namespace is where all but the boots' objects are.
const namespace = "bench"

// server is a booted edgebox and clients of its API.
type server struct {
	host *framework.Host
	api  *framework.API
	pods *podWatch
}

// open makes the namespace and the watch of its pods.
func (s *server) open(ctx context.Context) (err error) {
	if s.api, err = s.host.API(); err != nil {
		return err
	}
	if err := s.api.Do(ctx, http.MethodPost, "/api/v1/namespaces", object{"metadata": object{"name": namespace}}, nil); err != nil {
		return err
	}
	err = poll(ctx, "the service account", func(ctx context.Context) error {
		return s.api.Do(ctx, http.MethodGet, "/api/v1/namespaces/"+namespace+"/serviceaccounts/default", nil, nil)
	})
	if err != nil {
		return err
	}
	s.pods, err = watchPods(ctx, s.host)
	return err
}

func (s *server) close() {
	s.api.Close()
	s.pods.close()
}

const podsPath = "/api/v1/namespaces/" + namespace + "/pods"

// startPods makes pods at once and returns when all are Ready. The times are from the request that makes a pod to the
// event that it is Ready.
func (s *server) startPods(ctx context.Context, names ...string) ([]time.Duration, error) {
	begun := make([]time.Time, len(names))
	var g errgroup.Group
	for i, name := range names {
		g.Go(func() error {
			begun[i] = time.Now()
			return s.api.Do(ctx, http.MethodPost, podsPath, newPod(name), nil)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	ready := make(map[string]time.Time)
	err := s.pods.until(ctx, fmt.Sprintf("%d pods to be Ready", len(names)), func(e podEvent) bool {
		if e.ready && ready[e.name].IsZero() {
			ready[e.name] = e.at
		}
		return len(ready) == len(names)
	})
	if err != nil {
		return nil, err
	}
	took := make([]time.Duration, len(names))
	for i, name := range names {
		took[i] = ready[name].Sub(begun[i])
	}
	return took, nil
}

// removePods removes pods and returns when the last is gone.
func (s *server) removePods(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := s.api.Do(ctx, http.MethodDelete, podsPath+"/"+name, nil, nil); err != nil {
			return err
		}
	}
	gone := 0
	return s.pods.until(ctx, fmt.Sprintf("%d pods to be gone", len(names)), func(e podEvent) bool {
		if e.gone {
			gone++
		}
		return gone == len(names)
	})
}

// newPod is a pod that does nothing and ends when it is told to.
func newPod(name string) object {
	return object{
		"metadata": object{"name": name},
		"spec": object{
			"terminationGracePeriodSeconds": 1,
			"containers": []object{{
				"name": "main", "image": framework.Busybox().Ref,
				"command": []string{"sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"},
			}},
		},
	}
}

// podEvent is a change of a pod at the time when it was seen.
type podEvent struct {
	name        string
	ready, gone bool
	at          time.Time
}

// podWatch is a watch of the namespace's pods. framework.API has none.
type podWatch struct {
	events chan podEvent
	failed chan error
	cancel context.CancelFunc
}

func watchPods(ctx context.Context, h *framework.Host) (*podWatch, error) {
	text, err := os.ReadFile(h.File(framework.Kubeconfig))
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(text)
	if err != nil {
		return nil, err
	}
	config.Dial = h.DialContext
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+podsPath+"?watch=true&timeoutSeconds=3600", nil)
	if err != nil {
		cancel()
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		cancel()
		return nil, fmt.Errorf("watch pods: %s", resp.Status)
	}
	w := &podWatch{events: make(chan podEvent, 10000), failed: make(chan error, 1), cancel: cancel}
	go func() {
		defer client.CloseIdleConnections()
		defer func() { _ = resp.Body.Close() }()
		w.failed <- w.read(json.NewDecoder(resp.Body))
	}()
	return w, nil
}

func (w *podWatch) read(dec *json.Decoder) error {
	for {
		var e struct {
			Type   string
			Object struct {
				Metadata struct{ Name string }
				Status   struct {
					Conditions []struct{ Type, Status string }
				}
			}
		}
		if err := dec.Decode(&e); err != nil {
			return fmt.Errorf("watch pods: %w", err)
		}
		seen := podEvent{name: e.Object.Metadata.Name, gone: e.Type == "DELETED", at: time.Now()}
		for _, c := range e.Object.Status.Conditions {
			seen.ready = seen.ready || !seen.gone && c.Type == "Ready" && c.Status == "True"
		}
		w.events <- seen
	}
}

// until takes events until done says so.
func (w *podWatch) until(ctx context.Context, what string, done func(podEvent) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		select {
		case e := <-w.events:
			if done(e) {
				return nil
			}
		case err := <-w.failed:
			return err
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
}

func (w *podWatch) close() { w.cancel() }
