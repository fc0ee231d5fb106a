package component

import (
	"context"
	"errors"
	"time"
)

// Backoff of Restart: the first wait, its doubling up to a limit, and how long a run must last to start over.
const (
	restartMin = 500 * time.Millisecond
	restartMax = 30 * time.Second
	restartOK  = time.Minute
)

// Restart wraps a component that the node can live without for a while: when it fails it shows as degraded and is
// run again after a backoff, and the rest of the graph goes on.
func Restart(c Component) Component { return &restarter{Component: c} }

type restarter struct {
	Component
	node *Node
}

func (r *restarter) Prepare(ctx context.Context) error {
	if p, ok := r.Component.(Preparer); ok {
		return p.Prepare(ctx)
	}
	return nil
}

func (r *restarter) Check(ctx context.Context) error {
	if c, ok := r.Component.(Checker); ok {
		return c.Check(ctx)
	}
	return nil
}

func (r *restarter) Run(ctx context.Context, ready func()) error {
	wait := restartMin
	for {
		start := time.Now()
		runCtx, cancel := context.WithCancel(ctx)
		ended, err := r.node.do(runCtx, func(ctx context.Context) error { return r.Component.Run(ctx, ready) })
		cancel()
		if ctx.Err() != nil {
			<-ended
			return err
		}
		if err == nil {
			err = errors.New("returned although it was not asked to stop")
		}
		r.node.set(Degraded, err)
		<-ended
		if time.Since(start) > restartOK {
			wait = restartMin
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
		wait = min(2*wait, restartMax)
	}
}
