package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/term"

	"github.com/edgebox/edgebox/pkg/component"
)

// reporter tells how the boot goes: one log line per component that became ready or failed and, on a terminal, a last
// line that says what is being waited for.
type reporter struct {
	start time.Time
	graph *component.Graph
	tty   bool

	mu   sync.Mutex
	line string // what the terminal shows now
}

func newReporter(start time.Time, g *component.Graph) *reporter {
	return &reporter{start: start, graph: g, tty: term.IsTerminal(int(os.Stderr.Fd()))}
}

func (r *reporter) change(s component.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
	at := time.Since(r.start).Round(time.Millisecond)
	switch s.State {
	case component.Ready:
		slog.Info("ready", "component", s.Name, "after", at)
	case component.Degraded:
		slog.Warn("failed, will be tried again", "component", s.Name, "err", s.Error)
	case component.Failed:
		slog.Error("failed", "component", s.Name, "err", s.Error)
	}
}

// ready reports the end of the boot.
func (r *reporter) ready() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
	slog.Info("edgebox is ready", "after", time.Since(r.start).Round(time.Millisecond))
}

// show keeps the terminal's last line up to date until the boot is over.
func (r *reporter) show(ctx context.Context) {
	if !r.tty {
		return
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		case <-r.graph.Ready():
			return
		}
		var waits []string
		probes, cancel := context.WithCancel(ctx)
		cancel() // states only, no health checks
		for _, s := range r.graph.Status(probes) {
			if s.State != component.Starting && s.State != component.Degraded {
				continue
			}
			wait := s.Name
			if s.State == component.Starting && len(s.WaitingFor) > 0 {
				wait += " (" + s.WaitingFor[0] + ")"
			}
			waits = append(waits, wait)
		}
		r.mu.Lock()
		r.clear()
		r.line = fmt.Sprintf("%4.1fs waiting for %s", time.Since(r.start).Seconds(), strings.Join(waits, ", "))
		if width, _, err := term.GetSize(int(os.Stderr.Fd())); err == nil {
			r.line = fit(r.line, width-1)
		}
		fmt.Fprint(os.Stderr, r.line)
		r.mu.Unlock()
	}
}

// clear wipes the terminal's last line. The caller holds the lock.
func (r *reporter) clear() {
	if r.line != "" {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
		r.line = ""
	}
}

// fit makes one line of text that takes at most that many columns of a terminal. What may be two columns wide counts as
// such.
func fit(text string, columns int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	const wide = 0x1100 // the first such character
	for i, r := range text {
		columns--
		if r >= wide {
			columns--
		}
		if columns < 0 {
			return text[:i]
		}
	}
	return text
}
