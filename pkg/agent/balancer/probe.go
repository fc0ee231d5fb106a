package balancer

import (
	"context"
	"errors"
	"time"
)

const (
	// With another server to move to, how fast a silent one is noticed matters. Alone, a probe tells only the time, and
	// whether the server is there to `edgebox status`.
	probeSeveral = 5 * time.Second
	probeAlone   = 30 * time.Second
	probeTimeout = 3 * time.Second
	probeAgain   = time.Second // after a first failure, which may be one lost packet
)

// probe asks servers whether they are ready: the one in use, and those that did not answer last time.
func (b *Balancer) probe(ctx context.Context) {
	for {
		b.mu.Lock()
		var ask []*server
		for i, s := range b.servers {
			if i == 0 || s.err != nil {
				ask = append(ask, s)
			}
		}
		several, changed := len(b.servers) > 1, b.changed
		b.mu.Unlock()
		for _, s := range ask {
			b.probeOne(ctx, s)
		}
		b.lastResort(ctx)
		pause := probeAlone
		if several || b.Check(ctx) != nil {
			pause = probeSeveral
		}
		select {
		case <-time.After(pause):
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (b *Balancer) probeOne(ctx context.Context, s *server) {
	err := b.ask(ctx, s)
	if err != nil && b.current() == s {
		select {
		case <-time.After(probeAgain):
		case <-ctx.Done():
			return
		}
		err = b.ask(ctx, s)
	}
	switch {
	case ctx.Err() != nil:
	case err == nil:
		b.answered(s)
	default:
		b.failed(s, err)
	}
}

// ask probes a server and notes its time.
func (b *Balancer) ask(ctx context.Context, s *server) error {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, errors.New("no answer within "+probeTimeout.String()))
	defer cancel()
	now, err := b.cfg.Probe(ctx, s.address)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.DeadlineExceeded) {
			return cause
		}
		return err
	}
	if !now.IsZero() {
		b.mu.Lock()
		b.offset = time.Until(now)
		b.mu.Unlock()
	}
	return nil
}
