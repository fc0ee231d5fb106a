package component

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestExits: what would have ended the process fails the component whose goroutine asked for it, and nothing else.
func TestExits(t *testing.T) {
	var g *Graph
	serves := func(ready func()) {
		ready()
		time.Sleep(time.Second)
	}
	for name, tt := range map[string]struct {
		run  func(ctx context.Context, ready func()) error
		want string // the graph's error
	}{
		"in Run": {func(ctx context.Context, ready func()) error {
			serves(ready)
			Exit(ctx, errBroken)
			return errors.New("went on")
		}, "middle failed: broken"},
		"in Run, without a context": {func(ctx context.Context, ready func()) error {
			serves(ready)
			g.Exit(errBroken)
			return errors.New("went on")
		}, "middle failed: broken"},
		"in another goroutine": {func(ctx context.Context, ready func()) error {
			go func() {
				serves(ready)
				Exit(ctx, errBroken)
			}()
			<-ctx.Done()
			return errors.New("a consequence")
		}, "middle failed: broken"},
		"in a goroutine of another, without a context": {func(ctx context.Context, ready func()) error {
			go func() {
				serves(ready)
				go g.Exit(errBroken)
			}()
			<-ctx.Done()
			return errors.New("a consequence")
		}, "middle failed: broken"},
		"twice": {func(ctx context.Context, ready func()) error {
			serves(ready)
			go g.Exit(errBroken)
			time.Sleep(time.Second)
			Exit(ctx, errors.New("and again"))
			return nil
		}, "middle failed: broken"},
		"and does not come back": {func(ctx context.Context, ready func()) error {
			serves(ready)
			go g.Exit(errBroken)
			time.Sleep(time.Minute)
			return nil
		}, "middle failed: broken"},
		"of a goroutine that belongs to none": {func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			return nil
		}, "broken"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g = &Graph{}
				below := g.Add(&fake{name: "below", run: serve(0)})
				g.Add(&fake{name: "middle", run: tt.run}, After(below))
				above := g.Add(&fake{name: "above", run: serve(0)}, After(below))
				go func() {
					if time.Sleep(2 * time.Second); tt.want == "broken" {
						g.Exit(errBroken)
					}
				}()
				if err := g.Run(t.Context()); err == nil || err.Error() != tt.want {
					t.Errorf("the error is %v, want %s", err, tt.want)
				}
				for _, n := range []*Node{below, above} {
					if s := n.snapshot(); s.State != Stopped || s.Error != "" {
						t.Errorf("another component: %+v", s)
					}
				}
				time.Sleep(time.Hour) // all goroutines end
			})
		})
	}
}

func TestExitWhileStoppingOrPreparing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Graph
		g.Add(&fake{name: "a", run: func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			g.Exit(errBroken)
			return nil
		}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Run(ctx); err != nil {
			t.Errorf("an exit as the answer to a stop: %v", err)
		}
	})
	for name, exit := range map[string]func(ctx context.Context, g *Graph){
		"by context":   func(ctx context.Context, _ *Graph) { Exit(ctx, errBroken) },
		"by goroutine": func(_ context.Context, g *Graph) { g.Exit(errBroken) },
	} {
		var g Graph
		g.Add(&fake{name: "a", prepare: func(ctx context.Context) error {
			exit(ctx, &g)
			return nil
		}})
		if err := g.Run(t.Context()); err == nil || err.Error() != "prepare a: broken" {
			t.Errorf("an exit in Prepare %s: %v", name, err)
		}
	}
}

// TestExitOfRestarted: the component degrades and is run again once its former run has ended.
func TestExitOfRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Graph
		running, runs := 0, 0
		node := g.Add(Restart(&fake{name: "a", run: func(ctx context.Context, ready func()) error {
			runs++
			if running++; running > 1 {
				t.Error("it runs twice at a time")
			}
			defer func() { running-- }()
			if runs == 1 {
				for range 3 {
					go g.Exit(errBroken)
				}
				<-ctx.Done()
				time.Sleep(time.Minute)
				return nil
			}
			ready()
			<-ctx.Done()
			return nil
		}}))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- g.Run(ctx) }()
		time.Sleep(30 * time.Second)
		if s := node.snapshot(); s.State != Degraded || s.Error != "broken" {
			t.Errorf("after the exit: %+v", s)
		}
		time.Sleep(2 * time.Minute)
		if s := node.snapshot(); s.State != Ready || s.Restarts != 1 {
			t.Errorf("afterwards: %+v", s)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
