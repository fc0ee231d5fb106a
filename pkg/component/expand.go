package component

import (
	"context"
	"sync"
	"time"
)

// expandStop is how long a component made by Expand may take to stop. Each of those that it brought has a time of its
// own, so it is only for one that hangs.
const expandStop = time.Minute

// Expand returns a component whose outcome decides what else is to run: settle blocks until that is known, such as when
// a cluster has been joined, and returns a function that puts further components into a graph. They run inside the
// graph of this one: its Status lists them, its Ready waits for them, and a failure of one is a failure of both. It must
// not be wrapped in Restart.
func Expand(name string, settle func(ctx context.Context) (add func(*Graph), err error)) Component {
	return &expander{name: name, settle: settle, settled: make(chan struct{})}
}

type expander struct {
	name    string
	settle  func(ctx context.Context) (add func(*Graph), err error)
	outer   *Graph
	settled chan struct{} // closed when inner is there

	mu    sync.Mutex
	inner *Graph
}

func (e *expander) Name() string { return e.name }

func (e *expander) Run(ctx context.Context, ready func()) error {
	add, err := e.settle(ctx)
	if err != nil {
		return err
	}
	inner := &Graph{OnChange: e.outer.OnChange}
	add(inner)
	e.mu.Lock()
	e.inner = inner
	e.mu.Unlock()
	close(e.settled)
	ready()
	return inner.Run(ctx)
}

// graph is that of the components that were brought; nil as long as there is none.
func (e *expander) graph() *Graph {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.inner
}

// awaitReady blocks until all components that were brought are ready.
func (e *expander) awaitReady(ctx context.Context) {
	select {
	case <-e.settled:
	case <-ctx.Done():
		return
	}
	select {
	case <-e.graph().Ready():
	case <-ctx.Done():
	}
}

// find returns the component of that name here or in a graph inside.
func (g *Graph) find(name string) *Node {
	for _, n := range g.nodes {
		if n.c.Name() == name {
			return n
		}
		if e, ok := n.c.(*expander); ok {
			if inner := e.graph(); inner != nil {
				if found := inner.find(name); found != nil {
					return found
				}
			}
		}
	}
	return nil
}
