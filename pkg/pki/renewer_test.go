package pki

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// inRenewer runs test beside a Renewer in a bubble of fake time. The Store's clock runs with it, from today on, plus
// what jump adds.
func inRenewer(t *testing.T, test func(s *testStore, r *Renewer, host *Host, renewed chan []string, jump func(time.Duration))) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		start := time.Now()
		var offset atomic.Int64
		s.now = func() time.Time { return today.Add(time.Since(start) + time.Duration(offset.Load())) }
		host := testHost
		renewed := make(chan []string, 10)
		r := NewRenewer(s.Store, func() Spec { return Spec{Leaves: allLeaves(host)} }, func(names []string) { renewed <- names })

		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error)
		isReady := make(chan struct{})
		if err := r.Prepare(ctx); err != nil {
			t.Fatal(err)
		}
		go func() { stopped <- r.Run(ctx, func() { close(isReady) }) }()
		<-isReady
		synctest.Wait()
		test(s, r, &host, renewed, func(d time.Duration) { offset.Add(int64(d)) })
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// pass lets time go by, and waits for what happens at its end.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func got(renewed chan []string) []string {
	select {
	case names := <-renewed:
		return names
	default:
		return nil
	}
}

func leafNames() (names []string) {
	for _, l := range allLeaves(testHost) {
		names = append(names, l.Name)
	}
	return names
}

func TestRenewerFollowsTheClock(t *testing.T) {
	inRenewer(t, func(s *testStore, r *Renewer, _ *Host, renewed chan []string, jump func(time.Duration)) {
		if n := got(renewed); n != nil {
			t.Errorf("told of %v, which Prepare made", n)
		}
		jump(leafValidity - leafRenewBefore - 2*time.Hour)
		pass(2*time.Hour - time.Minute)
		if n := got(renewed); n != nil {
			t.Errorf("renewed %v too early", n)
		}
		pass(2 * time.Minute)
		if n := got(renewed); !slices.Equal(n, leafNames()) {
			t.Errorf("renewed %v", n)
		}

		// The clock jumps over the end of everything: nobody waits long for valid certificates.
		jump(5 * year)
		pass(clockPoll)
		if n := got(renewed); !slices.Equal(n, leafNames()) {
			t.Errorf("after the jump renewed %v", n)
		}
		jump(-50 * year)
		pass(3 * recheck)
		if n := got(renewed); n != nil {
			t.Errorf("after the jump backwards renewed %v", n)
		}
		// A CA of our own is prolonged too.
		jump(100 * year)
		pass(clockPoll)
		if n := got(renewed); !slices.Equal(n, append(slices.Clone(authorities), leafNames()...)) {
			t.Errorf("after a century renewed %v", n)
		}
	})
}

func TestRenewerRepairs(t *testing.T) {
	inRenewer(t, func(s *testStore, r *Renewer, host *Host, renewed chan []string, _ func(time.Duration)) {
		os.Remove(s.CertFile(Scheduler))
		pass(recheck + clockPoll)
		if n := got(renewed); !slices.Equal(n, []string{Scheduler}) {
			t.Errorf("renewed %v", n)
		}
		host.NodeIPs = []netip.Addr{netip.MustParseAddr("192.0.2.99")}
		r.Wake()
		r.Wake()
		synctest.Wait()
		if n := got(renewed); !slices.Contains(n, APIServer) || !slices.Contains(n, Kubelet) {
			t.Errorf("after a new address renewed %v", n)
		}
	})
}

func TestRenewerTriesAgain(t *testing.T) {
	inRenewer(t, func(s *testStore, r *Renewer, _ *Host, renewed chan []string, jump func(time.Duration)) {
		if err := r.Check(t.Context()); err != nil {
			t.Error(err)
		}
		var full atomic.Bool
		var attempts atomic.Int64
		full.Store(true)
		s.writeFile = func(path string, data []byte, perm fs.FileMode) error {
			if full.Load() {
				attempts.Add(1)
				return &fs.PathError{Op: "write", Path: path, Err: syscall.ENOSPC}
			}
			return writeUnsynced(path, data, perm)
		}
		jump(leafValidity)
		pass(10 * retry)
		if n := attempts.Load() / int64(len(leafNames())); n < 8 || n > 10 {
			t.Errorf("tried %d times in %v", n, 10*retry)
		}
		if err := r.Check(t.Context()); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Check: %v", err)
		}
		full.Store(false)
		pass(retry + clockPoll)
		if n := got(renewed); !slices.Equal(n, leafNames()) {
			t.Errorf("renewed %v", n)
		}
		if err := r.Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestRenewerFailsAtStart(t *testing.T) {
	s := newStore(t)
	write(t, s.CertFile(ServerCA), nil)
	r := NewRenewer(s.Store, func() Spec { return Spec{} }, nil)
	wantError(t, r.Run(t.Context(), func() { t.Error("ready") }), s.CertFile(ServerCA))

	os.Remove(s.CertFile(ServerCA)) // without Prepare, Run makes everything itself
	ctx, cancel := context.WithCancel(t.Context())
	if err := r.Run(ctx, cancel); err != nil {
		t.Error(err)
	}
	if s.cert(t, ServerCA) == nil || r.Name() != "certificates" {
		t.Error("no certificate")
	}
}
