// Command bench measures how fast and how small edgebox is, and prints a table of it beside the figures of the stock
// components and the targets:
//
//	go run ./tests/bench [-runs N] [-only boot,idle,size,pods,api] [-o markdown|json] [-- FLAG OF EDGEBOX SERVER...]
//
// edgebox runs in hosts of its own, see tests/framework, of which nothing is left. What is measured, and how, is told in
// docs/benchmarks.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/edgebox/edgebox/tests/framework"
)

// maxDuration bounds everything; a run with the defaults takes a third of it.
const maxDuration = 40 * time.Minute

// parts are what -only chooses from, in the order in which they run. All but the first share one host.
var parts = []string{"boot", "idle", "size", "pods", "api"}

type bench struct {
	runs   int           // boots, each cold and warm
	window time.Duration // over which CPU is counted
	parts  []string
	flags  []string // of the server
	report report
}

func main() {
	framework.Reexec()
	b := &bench{}
	flag.IntVar(&b.runs, "runs", 3, "number of boots")
	flag.DurationVar(&b.window, "window", time.Minute, "time over which the CPU of an idle server is counted")
	only := flag.String("only", strings.Join(parts, ","), "parts to run")
	output := flag.String("o", "markdown", "output format: markdown or json")
	flag.Parse()
	b.parts = strings.Split(*only, ",")
	b.flags = flag.Args()
	if err := b.check(*output); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, maxDuration)
	defer cancel()
	err := b.run(ctx)
	framework.Close()
	if err == nil && *output == "json" {
		err = b.report.json(os.Stdout)
	} else if err == nil {
		err = b.report.markdown(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // the context is of no use any more
	}
}

func (b *bench) check(output string) error {
	var errs []error
	for _, p := range b.parts {
		if !slices.Contains(parts, p) {
			errs = append(errs, fmt.Errorf("-only: there is no part %q: choose from %s", p, strings.Join(parts, ",")))
		}
	}
	if b.runs < 1 {
		errs = append(errs, errors.New("-runs must be at least 1"))
	}
	if b.window < time.Second {
		errs = append(errs, errors.New("-window must be at least 1s"))
	}
	if output != "markdown" && output != "json" {
		errs = append(errs, fmt.Errorf("-o %s: choose markdown or json", output))
	}
	return errors.Join(errs...)
}

// say tells on standard error what is being done.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

func (b *bench) chosen(part string) bool { return slices.Contains(b.parts, part) }

func (b *bench) run(ctx context.Context) error {
	var err error
	if b.report.Machine, err = describeMachine(ctx); err != nil {
		return err
	}
	if b.report.Machine.BusyPercent > 20 {
		say("the machine is busy with other work (%.0f %% of its cores): the figures will be worse than they should be", b.report.Machine.BusyPercent)
	}
	b.report.Runs, b.report.Flags = b.runs, b.flags
	if b.chosen("boot") {
		if err := b.boots(ctx); err != nil {
			return err
		}
	}
	// What hundreds of pods and thousands of objects leave to do would show in the other figures.
	for _, parts := range [][]string{{"size", "api"}, {"idle", "pods"}} {
		if parts = slices.DeleteFunc(parts, func(p string) bool { return !b.chosen(p) }); len(parts) > 0 {
			if err := b.steady(ctx, parts); err != nil {
				return err
			}
		}
	}
	return nil
}

// steady runs parts that want a server which has booted, on one of their own.
func (b *bench) steady(ctx context.Context, parts []string) error {
	h, err := framework.Boot(framework.Options{Name: "bench"})
	if err != nil {
		return err
	}
	say("booting a server for %s", strings.Join(parts, " and "))
	if err := h.Start(b.flags...); err != nil {
		return err
	}
	s := &server{host: h}
	if err := errors.Join(h.WaitReady(ctx), h.Import(ctx, framework.Busybox())); err != nil {
		return withLog(h, err)
	}
	booted := time.Now()
	if err := s.open(ctx); err != nil {
		return withLog(h, err)
	}
	defer s.close()
	run := map[string]func(context.Context) error{
		"size": func(ctx context.Context) error { return b.size(ctx, h) },
		"api": func(ctx context.Context) error {
			// What the boots wrote reaches the disk meanwhile.
			return errors.Join(sleep(ctx, booted.Add(time.Minute)), b.api(ctx, s))
		},
		"idle": func(ctx context.Context) error { return b.idle(ctx, s, booted) },
		"pods": func(ctx context.Context) error { return b.podStarts(ctx, s) },
	}
	for _, part := range parts {
		if err := run[part](ctx); err != nil {
			return withLog(h, fmt.Errorf("%s: %w", part, err))
		}
	}
	return errors.Join(h.Stop(), h.Close())
}

func withLog(h *framework.Host, err error) error {
	lines := strings.Split(strings.TrimSpace(h.Logs()), "\n")
	return fmt.Errorf("%w\nend of the server's log:\n%s", err, strings.Join(lines[max(0, len(lines)-20):], "\n"))
}

// poll repeats try until it succeeds. Its error has try's last one.
func poll(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, framework.BootTimeout)
	defer cancel()
	var last error
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: last error: %w", what, context.Cause(ctx), last)
		case <-time.After(pollEvery):
		}
	}
}

// sleep waits until the time has come.
func sleep(ctx context.Context, until time.Time) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Until(until)):
		return nil
	}
}
