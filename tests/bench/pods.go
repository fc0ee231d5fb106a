package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/edgebox/edgebox/tests/framework"
)

const (
	podsOneByOne = 20
	podsAtOnce   = 50
	statusCalls  = 20
)

// podStarts measures how long pods take whose image is there.
func (b *bench) podStarts(ctx context.Context, s *server) error {
	var single []time.Duration
	for i := range podsOneByOne {
		name := fmt.Sprintf("single-%d", i)
		took, err := s.startPods(ctx, name)
		if err != nil {
			return err
		}
		single = append(single, took...)
		if err := s.removePods(ctx, name); err != nil {
			return err
		}
	}
	say("pods one by one: %v to %v", percentile(single, 0).Round(time.Millisecond), percentile(single, 100).Round(time.Millisecond))
	var names []string
	for i := range podsAtOnce {
		names = append(names, fmt.Sprintf("many-%d", i))
	}
	many, err := s.startPods(ctx, names...)
	if err != nil {
		return err
	}
	say("%d pods at once: %v to %v", podsAtOnce, percentile(many, 0).Round(time.Millisecond), percentile(many, 100).Round(time.Millisecond))
	b.report.set("pods.1.p50", ms(percentile(single, 50)))
	b.report.set("pods.1.p99", ms(percentile(single, 99)))
	b.report.set("pods.50.p50", ms(percentile(many, 50)))
	b.report.set("pods.50.p99", ms(percentile(many, 99)))
	return s.removePods(ctx, names...)
}

// size measures the file, and the time that a command takes from start to exit.
func (b *bench) size(ctx context.Context, h *framework.Host) error {
	file, err := os.Stat(framework.EdgeboxBinary())
	if err != nil {
		return err
	}
	var status []time.Duration
	for range statusCalls {
		start := time.Now()
		if _, err := h.Edgebox(ctx, "status"); err != nil {
			return err
		}
		status = append(status, time.Since(start))
	}
	say("edgebox status: %v to %v", percentile(status, 0).Round(time.Millisecond), percentile(status, 100).Round(time.Millisecond))
	b.report.set("size.binary", float64(file.Size())/(1<<20))
	b.report.set("size.status", ms(median(status)))
	return nil
}
