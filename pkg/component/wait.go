package component

import (
	"context"
	"fmt"
	"time"
)

type nodeKey struct{}

// Note records, for the component that ctx belongs to, what it is waiting for. Status shows it until the component's
// state changes. Outside a graph it does nothing.
func Note(ctx context.Context, note string) {
	if n, ok := ctx.Value(nodeKey{}).(*Node); ok {
		n.mu.Lock()
		n.note = note
		n.mu.Unlock()
	}
}

// Poll calls probe until it returns nil, with a pause of interval between calls, and notes each error. When ctx ends
// first, the error says for how long it waited, for what, and what the last attempt gave.
func Poll(ctx context.Context, what string, interval time.Duration, probe func(context.Context) error) error {
	start := time.Now()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			Note(ctx, fmt.Sprintf("%s: %v", what, err))
			select {
			case <-time.After(interval):
				continue
			case <-ctx.Done():
			}
		}
		return fmt.Errorf("waited %s for %s: %w", time.Since(start).Round(time.Second), what, err)
	}
}
