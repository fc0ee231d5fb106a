// Package component runs the long-lived parts of edgebox as one graph: it starts each part when those it needs are
// ready, explains what is waited for, restarts what may be restarted, and stops everything in reverse order.
//
// It owns two goroutines per component, whose profiler label "component" all that they start inherits. It knows nothing
// of what the components do. Standard library only.
package component

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// A Component is one long-running part of edgebox.
type Component interface {
	// Name is stable: it is used in logs, `edgebox status` and --disable.
	Name() string
	// Run blocks until ctx ends or the component fails, and calls ready once it serves, proven by a real round trip.
	// A return before ctx ends is a failure, with or without an error. Calling ready again has no effect.
	Run(ctx context.Context, ready func()) error
}

// A Preparer has work to do before anything starts: directories, certificates, rendering. It starts no goroutine.
// All Prepare calls of a graph are made in the order of Add, one after the other; the first error ends the boot.
type Preparer interface {
	Prepare(ctx context.Context) error
}

// A Checker can say whether it is healthy. Check is called on demand, only after ready, and may be slow.
type Checker interface {
	Check(ctx context.Context) error
}

// State is where a component is in its life.
type State string

// The states of a component, in the order in which it usually passes through them.
const (
	Waiting  State = "waiting"  // for the components it comes after
	Starting State = "starting" // Run was called, ready was not
	Ready    State = "ready"
	Degraded State = "degraded" // failed, and will be run again
	Stopping State = "stopping"
	Stopped  State = "stopped"
	Failed   State = "failed"
)

// Status is what is known of one component at one moment.
type Status struct {
	Name       string    `json:"name"`
	State      State     `json:"state"`
	Since      time.Time `json:"since"`                // when State was entered
	Error      string    `json:"error,omitempty"`      // the last error, also of an earlier run
	WaitingFor []string  `json:"waitingFor,omitempty"` // components not ready yet, and what they last reported
	Restarts   int       `json:"restarts,omitempty"`
}

// DefaultStopTimeout is how long a component may take to return after its context ended.
const DefaultStopTimeout = 3 * time.Second

// ErrRestart is in the error of a component that needs edgebox to start anew, by itself and at once, such as with other
// settings: the process stops in order and starts over.
var ErrRestart = errors.New("edgebox starts anew")

// Option adjusts how a component stands in its graph.
type Option func(*Node)

// After starts the component when all of nodes are ready, and stops it before any of them.
func After(nodes ...*Node) Option {
	return func(n *Node) { n.after = append(n.after, nodes...) }
}

// StopTimeout replaces DefaultStopTimeout.
func StopTimeout(d time.Duration) Option {
	return func(n *Node) { n.stopTimeout = d }
}

// Node is a component's place in a graph: a handle for After.
type Node struct {
	c           Component
	after       []*Node
	stopTimeout time.Duration
	optional    bool // wrapped in Restart: its failure does not hold up Graph.Ready

	ready    chan struct{} // closed at the first ready
	settled  chan struct{} // closed at the first ready, or for optional ones the first failure
	stopped  chan struct{} // closed when Run has returned or never will be called
	exits    chan error    // what was given to Exit
	onChange func(Status)

	mu     sync.Mutex
	status Status
	note   string // what the component waits for while it starts
}

// Graph holds components and the order between them. Its zero value is ready for use.
// Since After takes handles that already exist, a graph has no cycle.
type Graph struct {
	// OnChange, when set before Run, is called at each change of a component's state, from several goroutines.
	OnChange func(Status)

	nodes []*Node
	fail  context.CancelCauseFunc

	readyOnce sync.Once
	readyCh   chan struct{}
}

// Add puts c into the graph. It must not be called after Run.
func (g *Graph) Add(c Component, opts ...Option) *Node {
	n := &Node{
		c: c, stopTimeout: DefaultStopTimeout,
		ready: make(chan struct{}), settled: make(chan struct{}), stopped: make(chan struct{}),
		exits:  make(chan error, 1),
		status: Status{Name: c.Name(), State: Waiting, Since: time.Now()},
	}
	for _, o := range opts {
		o(n)
	}
	switch c := c.(type) {
	case *restarter:
		n.optional = true
		c.node = n
	case *expander:
		c.outer = g
		n.stopTimeout = expandStop
	}
	g.nodes = append(g.nodes, n)
	return n
}

// Ready is closed once every component was ready, or, where it is wrapped in Restart, has failed for the first time.
func (g *Graph) Ready() <-chan struct{} {
	g.readyOnce.Do(func() { g.readyCh = make(chan struct{}) })
	return g.readyCh
}

// Run prepares and starts the components and blocks until ctx ends or one of them fails; then it stops all of them.
// The error is nil when ctx ended and every component stopped in time; else it names the first cause, joined with
// what went wrong while stopping.
func (g *Graph) Run(ctx context.Context) error {
	runCtx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	g.fail = fail
	for _, n := range g.nodes {
		n.onChange = g.OnChange
		p, ok := n.c.(Preparer)
		if !ok {
			continue
		}
		if _, err := n.do(ctx, p.Prepare); err != nil {
			n.set(Failed, err)
			return fmt.Errorf("prepare %s: %w", n.c.Name(), err)
		}
	}

	// A component's own context does not end with runCtx, but when its dependents have stopped.
	cancels := make([]context.CancelFunc, len(g.nodes))
	for i, n := range g.nodes {
		nodeCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		cancels[i] = cancel
		go g.runNode(runCtx, nodeCtx, n)
	}
	go g.signalReady(runCtx)

	<-runCtx.Done()
	var first error
	if cause := context.Cause(runCtx); ctx.Err() == nil {
		first = cause
	}
	stopErr := g.stop(cancels)
	return errors.Join(first, stopErr)
}

func (g *Graph) signalReady(ctx context.Context) {
	for _, n := range g.nodes {
		select {
		case <-n.settled:
		case <-ctx.Done():
			return
		}
		if e, ok := n.c.(*expander); ok {
			e.awaitReady(ctx)
		}
	}
	if ctx.Err() != nil {
		return
	}
	g.Ready()
	close(g.readyCh)
}

// runNode waits for the node's predecessors, runs it, and reports an early return as the graph's failure.
func (g *Graph) runNode(runCtx, nodeCtx context.Context, n *Node) {
	defer close(n.stopped)
	for _, d := range n.after {
		select {
		case <-d.ready:
		case <-runCtx.Done():
			n.set(Stopped, nil)
			return
		}
	}
	if runCtx.Err() != nil {
		n.set(Stopped, nil)
		return
	}
	n.set(Starting, nil)
	var err error
	if n.optional { // Restart calls do, for each run
		err = protect(func() error { return n.c.Run(nodeCtx, n.becomeReady) })
	} else {
		var ended <-chan struct{}
		ended, err = n.do(nodeCtx, func(ctx context.Context) error { return n.c.Run(ctx, n.becomeReady) })
		defer func() { <-ended }()
	}
	if nodeCtx.Err() != nil { // asked to stop; what a start that was cut short says of that is of no interest
		if err != nil && n.wasReady() && !errors.Is(err, context.Canceled) {
			n.set(Stopped, err)
			return
		}
		n.set(Stopped, nil)
		return
	}
	if err == nil {
		err = errors.New("returned although it was not asked to stop")
	}
	if e, ok := n.c.(*expander); ok && e.graph() != nil { // one of those inside, which the error names
		n.set(Stopped, nil)
		g.fail(err)
		return
	}
	n.set(Failed, err)
	g.fail(fmt.Errorf("%s failed: %w", n.c.Name(), err))
}

func (n *Node) becomeReady() {
	n.set(Ready, nil)
}

func (n *Node) wasReady() bool {
	select {
	case <-n.ready:
		return true
	default:
		return false
	}
}

// stop ends the components in reverse order, each as soon as all that come after it have ended or run out of time.
func (g *Graph) stop(cancels []context.CancelFunc) error {
	gone := make(map[*Node]chan struct{}, len(g.nodes)) // closed when the node has stopped or was given up
	dependents := make(map[*Node][]*Node)
	for _, n := range g.nodes {
		gone[n] = make(chan struct{})
		for _, d := range n.after {
			dependents[d] = append(dependents[d], n)
		}
	}
	errs := make([]error, len(g.nodes))
	var wg sync.WaitGroup
	for i, n := range g.nodes {
		wg.Go(func() {
			defer close(gone[n])
			for _, d := range dependents[n] {
				<-gone[d]
			}
			n.stopping()
			cancels[i]()
			t := time.NewTimer(n.stopTimeout)
			defer t.Stop()
			select {
			case <-n.stopped:
				if s := n.snapshot(); s.State == Stopped && s.Error != "" {
					errs[i] = fmt.Errorf("stop %s: %s", s.Name, s.Error)
				}
			case <-t.C:
				if n.snapshot().State == Failed { // its own error counts
					return
				}
				errs[i] = fmt.Errorf("stop %s: still running after %s", n.c.Name(), n.stopTimeout)
				n.set(Failed, errs[i])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Status returns the state of every component in the order of Add. Those that are ready and implement Checker are
// asked, all at the same time; ctx bounds how long that takes.
func (g *Graph) Status(ctx context.Context) []Status {
	out := g.status(ctx)
	for _, n := range g.nodes {
		if e, ok := n.c.(*expander); ok && e.graph() != nil {
			out = append(out, e.graph().Status(ctx)...)
		}
	}
	return out
}

func (g *Graph) status(ctx context.Context) []Status {
	out := make([]Status, len(g.nodes))
	var wg sync.WaitGroup
	for i, n := range g.nodes {
		out[i] = n.snapshot()
		c, ok := n.c.(Checker)
		if !ok || out[i].State != Ready {
			continue
		}
		wg.Go(func() {
			if err := protect(func() error { return c.Check(ctx) }); err != nil {
				out[i].State, out[i].Error = Degraded, err.Error()
			}
		})
	}
	wg.Wait()
	return out
}

func (n *Node) snapshot() Status {
	n.mu.Lock()
	s, note := n.status, n.note
	n.mu.Unlock()
	switch s.State {
	case Waiting:
		for _, d := range n.after {
			select {
			case <-d.ready:
			default:
				s.WaitingFor = append(s.WaitingFor, d.describe())
			}
		}
	case Starting:
		if note != "" {
			s.WaitingFor = []string{note}
		}
	}
	return s
}

func (n *Node) describe() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.note != "":
		return n.status.Name + ": " + n.note
	case n.status.Error != "":
		return n.status.Name + ": " + n.status.Error
	}
	return n.status.Name
}

func (n *Node) stopping() {
	if s := n.snapshot().State; s == Ready || s == Starting || s == Degraded {
		n.set(Stopping, nil)
	}
}

// set records a state. A nil error keeps the last one on record, except when the component became ready.
func (n *Node) set(s State, err error) {
	n.mu.Lock()
	if n.status.State == s && err == nil || n.status.State == Stopping && (s == Ready || s == Degraded) {
		n.mu.Unlock()
		return
	}
	n.status.State, n.status.Since = s, time.Now()
	switch {
	case err != nil:
		n.status.Error = err.Error()
	case s == Ready || s == Stopped:
		n.status.Error = ""
	}
	if s == Degraded {
		n.status.Restarts++
	}
	n.note = ""
	if s == Ready {
		closeOnce(n.ready)
	}
	if s == Ready || s == Degraded && n.optional {
		closeOnce(n.settled)
	}
	st := n.status
	n.mu.Unlock()
	if n.onChange != nil {
		n.onChange(st)
	}
}

// closeOnce closes ch if it is open. The caller holds the lock that guards it.
func closeOnce(ch chan struct{}) {
	select {
	case <-ch:
	default:
		close(ch)
	}
}

// protect turns a panic of f into an error that carries the stack.
func protect(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}
