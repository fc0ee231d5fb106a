package component

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
)

// labelKey is the profiler label that tells to which component a goroutine belongs. Goroutines inherit it from the one
// that started them.
const labelKey = "component"

// Exit takes the place of os.Exit for what runs inside a component: the component that ctx belongs to has failed with
// err, and the calling goroutine ends. If the component was asked to stop, only the latter. It never returns.
func Exit(ctx context.Context, err error) {
	n, ok := ctx.Value(nodeKey{}).(*Node)
	if !ok {
		panic(fmt.Errorf("outside of a graph: %w", err))
	}
	n.exit(err)
	runtime.Goexit()
}

// Exit is like the function Exit, for hooks of libraries that get no context: the component is found by the goroutine.
// If it belongs to none, all of the graph has failed.
func (g *Graph) Exit(err error) {
	profiling.Lock()
	name := ownLabel()
	profiling.Unlock()
	if n := g.find(name); n != nil {
		n.exit(err)
		runtime.Goexit()
	}
	g.fail(err)
	runtime.Goexit()
}

func (n *Node) exit(err error) {
	if s := n.snapshot().State; s == Stopping || s == Stopped {
		return
	}
	select {
	case n.exits <- err:
	default: // it has failed already
	}
}

// do calls f, a part of the component's life, in a goroutine of its own, and returns what f returns, panics with or
// gives to Exit. In the last case f may go on; ended is closed once it does not.
func (n *Node) do(ctx context.Context, f func(context.Context) error) (ended <-chan struct{}, err error) {
	select {
	case <-n.exits: //nolint:errcheck // a second reason for the run before
	default:
	}
	var result error
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if ctx.Err() != nil && errors.Is(result, errGoexit) { // what it did when it was asked to stop
				result = nil
			}
		}()
		result = errGoexit
		pprof.Do(context.WithValue(ctx, nodeKey{}, n), pprof.Labels(labelKey, n.c.Name()), func(ctx context.Context) {
			result = protect(func() error { return f(ctx) })
		})
	}()
	select {
	case err = <-n.exits:
		return done, err
	case <-done:
	}
	select {
	case err = <-n.exits:
		return done, err
	default:
		return done, result
	}
}

var errGoexit = errors.New("ended its goroutine")

// profiling is held by the one goroutine that looks for itself in the profile of all.
var profiling sync.Mutex

// ownLabel is the calling goroutine's label, or empty. Go has no other way to ask for it; the profile takes some
// milliseconds.
func ownLabel() string {
	var profile strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		return ""
	}
	for stack := range strings.SplitSeq(profile.String(), "\n\n") {
		if !strings.Contains(stack, "pkg/component.ownLabel+") {
			continue
		}
		for line := range strings.Lines(stack) {
			if text, ok := strings.CutPrefix(line, "# labels: "); ok {
				var labels map[string]string
				if err := json.Unmarshal([]byte(text), &labels); err == nil {
					return labels[labelKey]
				}
			}
		}
	}
	return ""
}
