package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/edgebox/edgebox/tests/framework"
)

// pollEvery is the pause between two looks during a boot.
const pollEvery = 10 * time.Millisecond

// bootTimes count from the start of the process.
type bootTimes struct{ api, node, pod time.Duration }

// boots measures boots of fresh hosts, and of the same hosts again.
func (b *bench) boots(ctx context.Context) error {
	image, err := framework.Web("1")
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := image.WriteArchive(&archive); err != nil {
		return err
	}
	var cold, warm []bootTimes
	for i := range b.runs {
		h, err := framework.Boot(framework.Options{Name: "bench"})
		if err != nil {
			return err
		}
		c, err := b.bootOnce(ctx, h, "cold", image.Ref, archive.Bytes())
		if err == nil {
			// The warm boot is to find the payload settled, as the end of a boot leaves it.
			err = errors.Join(h.WaitReady(ctx), h.Stop())
		}
		if err != nil {
			return withLog(h, fmt.Errorf("cold boot: %w", err))
		}
		w, err := b.bootOnce(ctx, h, "warm", image.Ref, nil)
		if err != nil {
			return withLog(h, fmt.Errorf("warm boot: %w", err))
		}
		if err := errors.Join(h.Stop(), h.Close()); err != nil {
			return err
		}
		say("boot %d of %d: cold %v, warm %v", i+1, b.runs, c, w)
		cold, warm = append(cold, c), append(warm, w)
	}
	b.setBoots("boot.cold.", cold)
	b.setBoots("boot.warm.", warm)
	return nil
}

func (b *bench) setBoots(prefix string, boots []bootTimes) {
	for id, of := range map[string]func(bootTimes) time.Duration{
		"api":  func(t bootTimes) time.Duration { return t.api },
		"node": func(t bootTimes) time.Duration { return t.node },
		"pod":  func(t bootTimes) time.Duration { return t.pod },
	} {
		var values []time.Duration
		for _, t := range boots {
			values = append(values, of(t))
		}
		b.report.set(prefix+id, ms(median(values)))
	}
}

func (t bootTimes) String() string {
	r := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("API %v, node %v, pod %v", r(t.api), r(t.node), r(t.pod))
}

// bootOnce starts the server, imports the archive unless that is nil, and makes a Deployment of one pod.
func (b *bench) bootOnce(ctx context.Context, h *framework.Host, deployment, image string, archive []byte) (bootTimes, error) {
	var t bootTimes
	unix.Sync() // what was written before is not to be waited for
	start := time.Now()
	if err := h.Start(b.flags...); err != nil {
		return t, err
	}
	var api *framework.API
	defer func() {
		if api != nil {
			api.Close()
		}
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	imported, served := make(chan struct{}), make(chan struct{})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(imported)
		if archive == nil {
			return nil
		}
		return importEarly(ctx, h, archive)
	})
	g.Go(func() error {
		defer close(served)
		err := poll(ctx, "the API", func(ctx context.Context) (err error) {
			if api == nil { // the kubeconfig is not there yet
				if api, err = h.API(); err != nil {
					return err
				}
			}
			err = api.Do(ctx, http.MethodGet, "/readyz", nil, nil)
			if _, gone := os.Stat(procFile(h, h.PID(), "stat")); gone != nil {
				cancel(errors.New("the server has ended"))
			}
			return err
		})
		t.api = time.Since(start)
		return err
	})
	g.Go(func() error {
		<-served
		err := poll(ctx, "the node", func(ctx context.Context) error { return nodeReady(ctx, api, h.Name, start) })
		t.node = time.Since(start)
		return err
	})
	g.Go(func() error {
		<-served
		<-imported
		err := poll(ctx, "a Deployment", func(ctx context.Context) error {
			return api.Do(ctx, http.MethodPost, "/apis/apps/v1/namespaces/default/deployments", newDeployment(deployment, image), nil)
		})
		if err != nil {
			return err
		}
		err = poll(ctx, "its pod", func(ctx context.Context) error { return podRuns(ctx, api, deployment) })
		t.pod = time.Since(start)
		return err
	})
	return t, g.Wait()
}

// nodeReady looks for a condition Ready that the kubelet has confirmed since. The condition alone is, after a restart,
// that of the run before.
func nodeReady(ctx context.Context, api *framework.API, name string, since time.Time) error {
	var node struct {
		Status struct {
			Conditions []struct {
				Type, Status      string
				LastHeartbeatTime time.Time
			}
		}
	}
	if err := api.Do(ctx, http.MethodGet, "/api/v1/nodes/"+name, nil, &node); err != nil {
		return err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == "Ready" && c.Status == "True" && c.LastHeartbeatTime.After(since.Truncate(time.Second)) {
			return nil
		}
	}
	return fmt.Errorf("not Ready: %+v", node.Status.Conditions)
}

func podRuns(ctx context.Context, api *framework.API, app string) error {
	var list struct {
		Items []struct{ Status struct{ Phase string } }
	}
	if err := api.Do(ctx, http.MethodGet, "/api/v1/namespaces/default/pods?labelSelector=app%3D"+app, nil, &list); err != nil {
		return err
	}
	for _, pod := range list.Items {
		if pod.Status.Phase == "Running" {
			return nil
		}
	}
	return fmt.Errorf("pods: %+v", list.Items)
}

func newDeployment(name, image string) object {
	labels := object{"app": name}
	return object{
		"metadata": object{"name": name},
		"spec": object{
			"replicas": 1,
			"selector": object{"matchLabels": labels},
			"template": object{
				"metadata": object{"labels": labels},
				"spec":     object{"containers": []object{{"name": "web", "image": image, "ports": []object{{"containerPort": 80}}}}},
			},
		},
	}
}

// importEarly imports an image as soon as the server takes one.
func importEarly(ctx context.Context, h *framework.Host, archive []byte) error {
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", h.File("/run/edgebox/edgebox.sock"))
		},
	}}
	defer client.CloseIdleConnections()
	do := func(ctx context.Context, method, path string, body io.Reader) error {
		req, err := http.NewRequestWithContext(ctx, method, "http://edgebox"+path, body)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(resp.Body)
		err = errors.Join(err, resp.Body.Close())
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", resp.Status, text)
		}
		return err
	}
	if err := poll(ctx, "the image store", func(ctx context.Context) error {
		return do(ctx, http.MethodGet, "/v1/images", nil)
	}); err != nil {
		return err
	}
	return do(ctx, http.MethodPost, "/v1/images/import", bytes.NewReader(archive))
}
