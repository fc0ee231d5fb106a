package component

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a component whose life is written in its run function.
type fake struct {
	name    string
	run     func(ctx context.Context, ready func()) error
	prepare func(context.Context) error
	check   func(context.Context) error
}

func (f *fake) Name() string                                { return f.name }
func (f *fake) Run(ctx context.Context, ready func()) error { return f.run(ctx, ready) }

func (f *fake) Prepare(ctx context.Context) error {
	if f.prepare == nil {
		return nil
	}
	return f.prepare(ctx)
}

func (f *fake) Check(ctx context.Context) error {
	if f.check == nil {
		return nil
	}
	return f.check(ctx)
}

// serve is the life of a healthy component that takes d to become ready.
func serve(d time.Duration) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return ctx.Err()
		}
		ready()
		<-ctx.Done()
		return nil
	}
}

var errBroken = errors.New("broken")

// TestFailures is the table of all ways in which one component can fail between two healthy ones, and what becomes of
// the graph: its error, and that the healthy ones stop in reverse order.
func TestFailures(t *testing.T) {
	tests := map[string]struct {
		run  func(ctx context.Context, ready func()) error
		want string // in the error; empty for none
	}{
		"dies before ready": {
			func(context.Context, func()) error { return errBroken }, "middle failed: broken"},
		"returns nil before ready": {
			func(context.Context, func()) error { return nil }, "middle failed: returned although it was not asked to stop"},
		"panics before ready": {
			func(context.Context, func()) error { panic("boom") }, "middle failed: panic: boom"},
		"dies after ready": {
			func(_ context.Context, ready func()) error { ready(); time.Sleep(time.Second); return errBroken }, "middle failed: broken"},
		"returns nil after ready": {
			func(_ context.Context, ready func()) error { ready(); time.Sleep(time.Second); return nil },
			"middle failed: returned although it was not asked to stop"},
		"panics after ready": {
			func(_ context.Context, ready func()) error { ready(); time.Sleep(time.Second); panic("boom") }, "middle failed: panic: boom"},
		"fails while stopping": {
			func(ctx context.Context, ready func()) error { ready(); <-ctx.Done(); return errBroken }, "stop middle: broken"},
		"panics while stopping": {
			func(ctx context.Context, ready func()) error { ready(); <-ctx.Done(); panic("boom") }, "stop middle: panic: boom"},
		"hangs while stopping": {
			func(_ context.Context, ready func()) error { ready(); time.Sleep(time.Hour); return nil }, "stop middle: still running after 3s"},
		"returns its context's error": {
			func(ctx context.Context, ready func()) error { ready(); <-ctx.Done(); return ctx.Err() }, ""},
		"never becomes ready": {
			func(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var stops []string
				healthy := func(name string) Component {
					return &fake{name: name, run: func(ctx context.Context, ready func()) error {
						err := serve(time.Second)(ctx, ready)
						mu.Lock()
						defer mu.Unlock()
						stops = append(stops, name)
						return err
					}}
				}
				var g Graph
				first := g.Add(healthy("first"))
				middle := g.Add(&fake{name: "middle", run: tt.run}, After(first))
				g.Add(healthy("last"), After(middle))

				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				err := g.Run(ctx)
				time.Sleep(2 * time.Hour) // lets what hangs end
				if got := fmt.Sprint(err); tt.want == "" && err != nil || tt.want != "" && !strings.Contains(got, tt.want) {
					t.Errorf("Run gave %q, want %q in it", got, tt.want)
				}
				mu.Lock()
				defer mu.Unlock()
				if slices.Index(stops, "first") != len(stops)-1 || len(stops) == 0 {
					t.Errorf("stopped in the order %v, want first as the last", stops)
				}
			})
		})
	}
}

func TestStartsInParallelAlongEdges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Graph
		a := g.Add(&fake{name: "a", run: serve(2 * time.Second)})
		b := g.Add(&fake{name: "b", run: serve(3 * time.Second)})
		g.Add(&fake{name: "c", run: serve(time.Second)}, After(a, b))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		start := time.Now()
		go func() { done <- g.Run(ctx) }()
		<-g.Ready()
		if got := time.Since(start); got != 4*time.Second {
			t.Errorf("ready after %s, want the longest path, 4s", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestPrepareFailureStartsNothing(t *testing.T) {
	started := false
	run := func(context.Context, func()) error { started = true; return nil }
	var g Graph
	g.Add(&fake{name: "a", run: run})
	g.Add(&fake{name: "b", run: run, prepare: func(context.Context) error { return errBroken }})
	err := g.Run(t.Context())
	if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "prepare b") || started {
		t.Errorf("got %v, started %t", err, started)
	}
}

func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		flaky := &fake{name: "flaky", run: func(ctx context.Context, ready func()) error {
			if runs++; runs < 3 {
				return errBroken
			}
			return serve(0)(ctx, ready)
		}}
		var g Graph
		g.Add(Restart(flaky))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()

		synctest.Wait()
		if s := g.Status(ctx)[0]; s.State != Degraded || s.Error != "broken" {
			t.Errorf("after the first failure: %+v", s)
		}
		<-g.Ready() // a failing optional component does not hold up the boot
		time.Sleep(restartMin + 2*restartMin)
		synctest.Wait()
		if s := g.Status(ctx)[0]; s.State != Ready || s.Error != "" || s.Restarts != 2 {
			t.Errorf("after the third start: %+v", s)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestStopWhileRestarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Graph
		g.Add(Restart(&fake{name: "never", run: func(context.Context, func()) error { return errBroken }}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := g.Run(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestStatusExplainsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Graph
		slow := g.Add(&fake{name: "containerd", run: func(ctx context.Context, ready func()) error {
			return Poll(ctx, "its socket", time.Second, func(context.Context) error { return errors.New("connection refused") })
		}})
		g.Add(&fake{name: "kubelet", run: serve(0)}, After(slow))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()
		time.Sleep(40 * time.Second)
		s := g.Status(ctx)
		if want := []string{"its socket: connection refused"}; !slices.Equal(s[0].WaitingFor, want) {
			t.Errorf("containerd waits for %v, want %v", s[0].WaitingFor, want)
		}
		if want := []string{"containerd: its socket: connection refused"}; s[1].State != Waiting || !slices.Equal(s[1].WaitingFor, want) {
			t.Errorf("kubelet is %s for %v, want %v", s[1].State, s[1].WaitingFor, want)
		}
		cancel()
		if err := <-done; err != nil { // a start that was cut short by a stop is no failure
			t.Error(err)
		}
	})
}

func TestPollExplainsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		err := Poll(ctx, "containerd", time.Second, func(context.Context) error { return errBroken })
		if err == nil || err.Error() != "waited 40s for containerd: broken" || !errors.Is(err, errBroken) {
			t.Errorf("got %v", err)
		}
	})
}

func TestStatusAsksCheckers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Graph
		g.Add(&fake{name: "ill", run: serve(0), check: func(context.Context) error { return errBroken }})
		g.Add(&fake{name: "panics", run: serve(0), check: func(context.Context) error { panic("boom") }})
		g.Add(&fake{name: "well", run: serve(0)})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = g.Run(ctx) }()
		<-g.Ready()
		synctest.Wait()
		got := map[string]State{}
		for _, s := range g.Status(ctx) {
			got[s.Name] = s.State
		}
		if got["ill"] != Degraded || got["panics"] != Degraded || got["well"] != Ready {
			t.Errorf("got %v", got)
		}
		cancel()
		synctest.Wait()
	})
}

func TestStopIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := func(_ context.Context, ready func()) error { ready(); time.Sleep(time.Hour); return nil }
		var g Graph
		a := g.Add(&fake{name: "a", run: hang}, StopTimeout(time.Second))
		g.Add(&fake{name: "b", run: hang}, After(a), StopTimeout(2*time.Second))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()
		<-g.Ready()
		cancel()
		start := time.Now()
		err := <-done
		took := time.Since(start)
		time.Sleep(2 * time.Hour) // lets what hangs end
		if took != 3*time.Second {
			t.Errorf("took %s, want the sum of the deadlines along the path, 3s", took)
		}
		for _, want := range []string{"stop a: still running", "stop b: still running"} {
			if !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("got %v, want %q in it", err, want)
			}
		}
	})
}
