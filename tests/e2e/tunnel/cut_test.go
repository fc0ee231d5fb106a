package tunnel

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgebox/edgebox/tests/framework"
)

// soon is what "within seconds of the link coming back" allows, on a machine whose cores others use too.
const soon = 30 * time.Second

// The tests in this file change the cluster and so are not parallel: they run before those that are.

// wantCut waits until nothing gets through to the node any more.
func wantCut(t *testing.T, n *framework.Namespace, node string) {
	t.Helper()
	framework.Eventually(t, framework.Patience, func() error {
		if try(t, n, node) == nil {
			return errors.New("commands still get through")
		}
		return nil
	})
}

// wantHealed waits until commands get through to the node again, and says how long that took.
func wantHealed(t *testing.T, n *framework.Namespace, node string, within time.Duration) {
	t.Helper()
	began := time.Now()
	framework.Eventually(t, within, func() error { return try(t, n, node) })
	t.Logf("node %s could be reached after %s", node, time.Since(began).Round(10*time.Millisecond))
}

// ready waits for a state of the node.
func ready(n *framework.Namespace, node, status string) {
	n.Want("node/"+node, `{.status.conditions[?(@.type=="Ready")].status}`, status)
}

// untouched fails the test when a pod was started anew.
func untouched(t *testing.T, n *framework.Namespace, containers string) {
	t.Helper()
	if got := n.Kubectl("get", "pods", "-o", containerIDs); got != containers {
		t.Errorf("containers %s\nwere %s", got, containers)
	}
}

const containerIDs = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].containerID}\n{end}"

func TestCutAndHeal(t *testing.T) {
	c, n := namespace(t)
	onEach(n, "sleep infinity", "")
	containers := n.Kubectl("get", "pods", "-o", containerIDs)
	node, other := agents[0], agents[1]
	h := c.agents[node]
	do := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name   string
		cut    func(t *testing.T)
		heal   func(t *testing.T)
		within time.Duration
	}{
		{"packets vanish until the node is given up", func(t *testing.T) {
			do(t, h.Blackhole(true))
			wantCut(t, n, node)
			ready(n, node, "Unknown")
		}, func(t *testing.T) { do(t, h.Blackhole(false)) }, soon},
		{"the cable is pulled out", func(t *testing.T) {
			do(t, h.Unplug())
			wantCut(t, n, node)
		}, func(t *testing.T) { do(t, h.Plug()) }, soon},
		{"the server's cable is pulled out", func(t *testing.T) {
			do(t, c.server.Unplug())
			wantCut(t, n, node)
		}, func(t *testing.T) { do(t, c.server.Plug()) }, soon},
		{"the router forgets all connections", func(*testing.T) {}, func(t *testing.T) {
			do(t, h.ForgetConnections())
		}, framework.Patience}, // nobody is told: the ends have to find out
		{"the server is killed", func(t *testing.T) { do(t, c.server.Kill9()) }, func(t *testing.T) {
			do(t, c.server.Start())
			do(t, c.server.WaitReady(t.Context()))
		}, soon},
		{"the agent is killed", func(t *testing.T) { do(t, h.Kill9()) }, func(t *testing.T) {
			do(t, h.StartAgentOf(c.server))
			do(t, h.WaitReady(t.Context()))
		}, soon},
		{"the agent is stopped", func(t *testing.T) {
			do(t, h.Stop())
			wantCut(t, n, node)
		}, func(t *testing.T) {
			do(t, h.StartAgentOf(c.server))
			do(t, h.WaitReady(t.Context()))
		}, soon},
	} {
		t.Run(step.name, func(t *testing.T) {
			heal := sync.OnceFunc(func() { step.heal(t) })
			defer heal() // whatever happens: other tests use the cluster too
			step.cut(t)
			heal()
			wantHealed(t, n, node, step.within)
			wantHealed(t, n, other, soon)
			ready(n, node, "True")
			untouched(t, n, containers)
		})
		if t.Failed() {
			return
		}
	}
}

// counter prints a number every now and then.
const counter = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done"

// A stream outlives a cut that is shorter than what connections bear.
func TestStreamOutlivesHiccup(t *testing.T) {
	c, n := namespace(t)
	onEach(n, counter, "")
	node := agents[0]
	h := c.agents[node]
	_, out := start(t, n, "logs", "-f", node)
	last := func() int {
		lines := strings.Fields(out.String())
		if len(lines) < 2 {
			return 0
		}
		i, err := strconv.Atoi(lines[len(lines)-2]) // the last may be cut short
		if err != nil {
			t.Fatalf("the log has the line %q", lines[len(lines)-2])
		}
		return i
	}
	further := func(than int) {
		t.Helper()
		framework.Eventually(t, framework.Patience, func() error {
			if i := last(); i <= than {
				return fmt.Errorf("the log ends at %d", i)
			}
			return nil
		})
	}
	further(3)
	if err := h.Blackhole(true); err != nil {
		t.Fatal(err)
	}
	// Long enough to lose lines if they could be lost.
	pause, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	<-pause.Done()
	during := last()
	if err := h.Blackhole(false); err != nil {
		t.Fatal(err)
	}
	further(during + 15)
	for want, line := range strings.Fields(out.String())[:last()] {
		if line != strconv.Itoa(want) {
			t.Fatalf("line %d of the log is %q", want, line)
		}
	}
}

// everything are the functions of kubectl that need the node, with one among them that takes many packets.
func everything(t *testing.T, n *framework.Namespace, node string) {
	t.Helper()
	framework.Eventually(t, framework.Patience, func() error { return try(t, n, node) })
	framework.Eventually(t, framework.Patience, func() error {
		_, err := n.Try("logs", node)
		return err
	})
	framework.Eventually(t, framework.Patience, func() error {
		out, err := n.Try("exec", node, "--", "sh", "-c", "head -c 30000 /dev/zero | tee /dev/stderr | sha256sum")
		if err == nil && !strings.HasPrefix(out, sumOfZeros) {
			err = fmt.Errorf("output %.200s", out)
		}
		return err
	})
}

// sumOfZeros is that of 30,000 bytes. TCP is a matter of luck, and of minutes, when it loses a third.
const sumOfZeros = "3755862355e2e7d0e0dc0f6b98a89978c0710890982862dd17975829e35be6b4"

func TestBadLinks(t *testing.T) {
	c, n := namespace(t)
	onEach(n, "echo here; sleep infinity", "")
	node := agents[0]
	h := c.agents[node]
	for _, link := range []struct {
		name string
		set  func() error
		heal func() error
	}{
		{"30 percent of the packets are lost", func() error { return h.Loss(30) }, func() error { return h.Loss(0) }},
		{"the round trip takes 300 ms", func() error { return h.Delay(300 * time.Millisecond) }, func() error { return h.Delay(0) }},
	} {
		t.Run(link.name, func(t *testing.T) {
			if err := link.set(); err != nil {
				t.Fatal(err)
			}
			heal := sync.OnceFunc(func() {
				if err := link.heal(); err != nil {
					t.Error(err)
				}
			})
			defer heal() // whatever happens: other tests use the link too
			everything(t, n, node)
			heal()
			wantHealed(t, n, node, soon)
			ready(n, node, "True")
		})
	}
}
