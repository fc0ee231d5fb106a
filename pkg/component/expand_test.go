package component

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// names of the components of a status, with their states.
func states(all []Status) string {
	var out []string
	for _, s := range all {
		out = append(out, s.Name+" "+string(s.State))
	}
	return strings.Join(out, ", ")
}

func TestExpand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Graph
		var changes []string
		g.OnChange = func(s Status) { changes = append(changes, s.Name+" "+string(s.State)) }
		joined := make(chan struct{})
		ready := make(chan struct{})
		stopped := make(chan string, 2)
		part := func(name string) *fake {
			return &fake{name: name, run: func(ctx context.Context, becomeReady func()) error {
				select {
				case <-ready:
				case <-ctx.Done():
				}
				becomeReady()
				<-ctx.Done()
				stopped <- name
				return nil
			}}
		}
		g.Add(Expand("join", func(ctx context.Context) (func(*Graph), error) {
			Note(ctx, "the server")
			<-joined
			return func(inner *Graph) {
				a := inner.Add(part("a"))
				inner.Add(part("b"), After(a))
			}, nil
		}))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- g.Run(ctx) }()
		synctest.Wait()
		if s := g.Status(ctx); states(s) != "join starting" || s[0].WaitingFor[0] != "the server" {
			t.Errorf("at first: %+v", s)
		}
		close(joined)
		synctest.Wait()
		if s := states(g.Status(ctx)); s != "join ready, a starting, b waiting" {
			t.Errorf("once joined: %s", s)
		}
		select {
		case <-g.Ready():
			t.Error("ready before the components inside")
		default:
		}
		close(ready)
		<-g.Ready()
		if s := states(g.Status(ctx)); s != "join ready, a ready, b ready" {
			t.Errorf("at last: %s", s)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if first := <-stopped; first != "b" {
			t.Errorf("%s stopped first", first)
		}
		if all := strings.Join(changes, ", "); !strings.Contains(all, "b ready") {
			t.Errorf("changes inside are not reported: %s", all)
		}
	})
}

func TestExpandFails(t *testing.T) {
	broken := errors.New("broken")
	var g Graph
	for name, tt := range map[string]struct {
		settle func(context.Context) (func(*Graph), error)
		want   string
	}{
		"before": {func(context.Context) (func(*Graph), error) { return nil, broken }, "join failed: broken"},
		"inside": {func(context.Context) (func(*Graph), error) {
			return func(inner *Graph) {
				inner.Add(&fake{name: "a", run: func(context.Context, func()) error { return broken }})
			}, nil
		}, "a failed: broken"},
		"exit inside": {func(context.Context) (func(*Graph), error) {
			return func(inner *Graph) {
				inner.Add(&fake{name: "a", run: func(ctx context.Context, _ func()) error {
					go g.Exit(broken) // as a library's hook does
					<-ctx.Done()
					return nil
				}})
			}, nil
		}, "a failed: broken"},
	} {
		t.Run(name, func(t *testing.T) {
			g = Graph{}
			g.Add(Expand("join", tt.settle))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := g.Run(ctx); err == nil || err.Error() != tt.want || !errors.Is(err, broken) {
				t.Errorf("the error is %v, want %s", err, tt.want)
			}
		})
	}
}
