package approval

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/pki"
)

// Self puts the machine of a server on record, so that no other can join under the name of its node. A server is the node
// that its certificates say it is, whatever was on record.
type Self struct {
	node    string
	alone   bool
	machine func() (pki.Machine, error)
	connect func() (kubernetes.Interface, error)

	id  string
	now func() time.Time
}

// NewSelf returns the component for the node of that name; the client must be the administrator's. A server that is alone has
// no kubelet, and no Node will come: its record stays until somebody deletes it.
func NewSelf(node string, alone bool, machine func() (pki.Machine, error), client func() (kubernetes.Interface, error)) *Self {
	return &Self{node: node, alone: alone, machine: machine, connect: client, now: time.Now}
}

// Name implements component.Component.
func (s *Self) Name() string { return "machine-record" }

// Prepare identifies the machine.
func (s *Self) Prepare(context.Context) error {
	machine, err := s.machine()
	if err != nil {
		return err
	}
	s.id = machine.ID()
	return nil
}

// Run writes the record, and binds it to the Node once the kubelet has registered that.
func (s *Self) Run(ctx context.Context, ready func()) error {
	client, err := s.connect()
	if err != nil {
		return fmt.Errorf("kubernetes client: %w", err)
	}
	if err := component.Poll(ctx, "the Node object", 250*time.Millisecond, func(ctx context.Context) error {
		return s.ensure(ctx, client)
	}); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

// ensure returns nil once the record is complete.
func (s *Self) ensure(ctx context.Context, client kubernetes.Interface) error {
	k, err := lookUp(ctx, client, s.node)
	if err != nil {
		return err
	}
	now := s.now()
	held, ok := k.machine(now)
	if err := k.record(s.id, true, now).write(ctx, client); err != nil {
		return err
	}
	if ok && held != s.id {
		slog.Warn("another machine had the name of this server's node", "node", s.node, "machine", short(held), "server", short(s.id))
	}
	if k.node == nil && !s.alone {
		return errors.New("not there yet")
	}
	return nil
}
