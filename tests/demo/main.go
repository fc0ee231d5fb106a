// Command demo shows in one minute what edgebox is for: it boots a cluster on this machine, runs a Deployment of two
// web servers behind a Service, fetches their page, and stops. The cluster is in namespaces of its own, and nothing of
// it is left afterwards.
package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/edgebox/edgebox/tests/framework"
)

//go:embed web.yaml
var manifest string

func main() {
	framework.Reexec()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := demo{begin: time.Now()}
	err := d.run(ctx)
	framework.Close()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1)
	}
}

// demo tells each step when it is done: the time since the begin, the time it took, what was done.
type demo struct {
	begin time.Time
	host  *framework.Host
}

func (d *demo) step(what string, do func() error) error {
	begin := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	fmt.Printf("%6.2f s  (%5.2f s)  %s\n", time.Since(d.begin).Seconds(), time.Since(begin).Seconds(), what)
	return nil
}

// show prints the output of a kubectl command, indented.
func (d *demo) show(ctx context.Context, args ...string) error {
	out, err := d.host.Kubectl(ctx, args...)
	if err != nil {
		return err
	}
	fmt.Printf("%19s  $ edgebox kubectl %s\n", "", strings.Join(args, " "))
	for line := range strings.Lines(out) {
		fmt.Printf("%19s    %s", "", line)
	}
	return nil
}

func (d *demo) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var image framework.Image
	var address string
	steps := []struct {
		what string
		do   func() error
	}{
		{"made a machine for it: namespaces, an empty disk, no default route", func() (err error) {
			d.host, err = framework.Boot(framework.Options{Name: "demo"})
			return err
		}},
		{"built the image web:1 from images/web", func() (err error) {
			image, err = framework.Web("1")
			return err
		}},
		{"`edgebox server`: the API is ready", func() error {
			return errors.Join(d.host.Start(), d.host.WaitAPI(ctx))
		}},
		{"the node is Ready", func() error { return d.host.WaitReady(ctx) }},
		{"`edgebox images import web.tar`", func() error { return d.host.Import(ctx, image) }},
		{"`edgebox kubectl apply -f web.yaml`: a Deployment of 2 replicas and a Service", func() error {
			if err := d.host.WriteFile("/root/web.yaml", manifest); err != nil {
				return err
			}
			_, err := d.host.Kubectl(ctx, "apply", "-f", "/root/web.yaml")
			return err
		}},
		{"both replicas run", func() error {
			_, err := d.host.Kubectl(ctx, "rollout", "status", "deployment/web", "--timeout=2m")
			return err
		}},
		{"", func() error { return d.show(ctx, "get", "nodes,pods,services", "-o", "wide") }},
		{"fetched the page through the Service, from each replica", func() (err error) {
			address, err = d.host.Kubectl(ctx, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
			if err != nil {
				return err
			}
			return d.fetch(ctx, "http://"+address, 2)
		}},
		{"SIGTERM: edgebox has stopped in order", func() error { return d.host.Stop() }},
		{"the pods still run, and serve", func() error { return d.fetch(ctx, "http://"+address, 1) }},
		{"removed the machine; nothing is left", func() error { return d.host.Close() }},
	}
	for _, s := range steps {
		do := d.step
		if s.what == "" {
			do = func(_ string, do func() error) error { return do() }
		}
		if err := do(s.what, s.do); err != nil {
			if d.host != nil {
				fmt.Fprintln(os.Stderr, d.host.Logs())
			}
			return err
		}
	}
	return nil
}

// fetch gets the page until so many different pods have answered.
func (d *demo) fetch(ctx context.Context, url string, pods int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	seen := make(map[string]bool)
	var last error
	for ctx.Err() == nil && len(seen) < pods {
		page, err := d.host.Run(ctx, "timeout", "3", "wget", "-q", "-O", "-", url)
		switch {
		case err != nil && ctx.Err() == nil:
			last = err
		case err != nil:
		case !strings.HasPrefix(page, "Hello from web-"):
			return fmt.Errorf("unexpected page: %s", page)
		case !seen[page]:
			seen[page] = true
			fmt.Printf("%19s  $ wget -qO- %s\n%19s    %s", "", url, "", page)
		}
	}
	if len(seen) < pods {
		return errors.Join(ctx.Err(), last)
	}
	return nil
}
