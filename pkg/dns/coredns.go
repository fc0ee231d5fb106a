package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/kubernetes"
	"github.com/miekg/dns"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	// The other directives of the Corefile register themselves.
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/loadbalance"
)

// The directives of this package.
const (
	directiveCluster      = "cluster"      // the plugin kubernetes
	directiveUnresolvable = "unresolvable" // SERVFAIL at once
)

const (
	// syncTimeout bounds how long a start waits for the cluster's Services. After it names outside the cluster are
	// answered, and those of the cluster with SERVFAIL.
	syncTimeout = 5 * time.Second
	// stopTimeout bounds how long a stop waits for answers under way. The sockets are closed before.
	stopTimeout = 2 * time.Second
)

// process guards what caddy and CoreDNS keep for the whole process: the directives, their order, and which instance
// starts. A directive's setup is given nothing but the Corefile; the rest is here while an instance starts.
var process struct {
	sync.Mutex
	register sync.Once
	ctx      context.Context // of the instance that starts
	api      *rest.Config
}

// instance is a running CoreDNS.
type instance struct {
	caddy *caddy.Instance
	ended chan struct{} // closed when no socket is served any more
}

// startCoreDNS returns when the sockets are open. ctx and api stay in use until stop.
func startCoreDNS(ctx context.Context, c corefile, api *rest.Config) (*instance, error) {
	if err := probeAddresses(c); err != nil {
		return nil, err
	}
	i := &instance{ended: make(chan struct{})}
	err := withProcess(ctx, api, func() (err error) {
		i.caddy, err = caddy.Start(input(c))
		return err
	})
	if err != nil {
		if i.caddy != nil {
			i.caddy.ShutdownCallbacks()
		}
		return nil, fmt.Errorf("start CoreDNS: %w", err)
	}
	go func() {
		defer close(i.ended)
		i.caddy.Wait()
	}()
	return i, nil
}

// reconfigure replaces the configuration; the sockets stay open, and no query is lost.
func (i *instance) reconfigure(ctx context.Context, c corefile, api *rest.Config) error {
	err := withProcess(ctx, api, func() error {
		next, err := i.caddy.Restart(input(c))
		if err == nil {
			i.caddy = next
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("reconfigure CoreDNS: %w", err)
	}
	return nil
}

func (i *instance) stop() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := errors.Join(i.caddy.ShutdownCallbacks()...); err != nil {
			slog.Warn("stop CoreDNS", "err", err)
		}
		_ = i.caddy.Stop() // never fails
		i.caddy.Wait()
	}()
	select {
	case <-done:
	case <-time.After(stopTimeout):
	}
}

func input(c corefile) caddy.Input {
	return caddy.CaddyfileInput{Filepath: "Corefile", Contents: []byte(c.render()), ServerTypeName: "dns"}
}

func withProcess(ctx context.Context, api *rest.Config, f func() error) error {
	process.Lock()
	defer process.Unlock()
	process.register.Do(func() {
		caddy.Quiet, dnsserver.Quiet = true, true // caddy would execute a shell to learn a limit, CoreDNS would print
		plugin.Register(directiveCluster, setupCluster)
		plugin.Register(directiveUnresolvable, setupUnresolvable)
	})
	if err := dnsserver.SetDirectives(directives); err != nil {
		return err
	}
	process.ctx, process.api = ctx, api
	defer func() { process.ctx, process.api = nil, nil }()
	return f()
}

// probeAddresses tries the addresses before CoreDNS takes them. CoreDNS shares its ports with whoever shares his, so
// that two servers would each get some of the queries; and of a pair of which one socket fails it leaves the other.
func probeAddresses(c corefile) error {
	for _, a := range c.addresses {
		addr := net.JoinHostPort(a.String(), strconv.Itoa(c.port))
		l, err := net.Listen("tcp", addr)
		if err == nil {
			l.Close()
			var p net.PacketConn
			if p, err = net.ListenPacket("udp", addr); err == nil {
				p.Close()
			}
		}
		if err != nil {
			return fmt.Errorf("%w: is there a DNS server on it, or on all addresses? Stop it or restrict it to its own", err)
		}
	}
	return nil
}

// setupCluster is the setup of CoreDNS' plugin kubernetes without klog.SetLogger, and with a client configuration that
// is given instead of read from a file.
func setupCluster(c *caddy.Controller) error {
	ctx := process.ctx
	c.Next()
	k, err := kubernetes.ParseStanza(c)
	if err != nil {
		return plugin.Error(directiveCluster, err)
	}
	k.ClientConfig = fixedConfig{process.api}
	if _, _, err := k.InitKubeCache(ctx); err != nil {
		return plugin.Error(directiveCluster, err)
	}
	stop := sync.OnceFunc(func() { _ = k.APIConn.Stop() }) // fails only when called twice
	c.OnStartup(func() error {
		go k.APIConn.Run()
		context.AfterFunc(ctx, stop)
		waitSynced(ctx, k.APIConn.HasSynced)
		return nil
	})
	c.OnShutdown(func() error {
		stop()
		return nil
	})
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		k.Next = next
		return k
	})
	return nil
}

func waitSynced(ctx context.Context, synced func() bool) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !synced() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// fixedConfig is a clientcmd.ClientConfig that was made elsewhere.
type fixedConfig struct{ rest *rest.Config }

func (c fixedConfig) ClientConfig() (*rest.Config, error) { return c.rest, nil }
func (c fixedConfig) RawConfig() (clientcmdapi.Config, error) {
	return clientcmdapi.Config{}, errors.ErrUnsupported
}
func (c fixedConfig) Namespace() (string, bool, error)     { return "default", false, nil }
func (c fixedConfig) ConfigAccess() clientcmd.ConfigAccess { return nil }

func setupUnresolvable(c *caddy.Controller) error {
	dnsserver.GetConfig(c).AddPlugin(func(plugin.Handler) plugin.Handler { return unresolvable{} })
	return nil
}

// unresolvable answers for the world outside when there is no server to ask. Not NXDOMAIN: whether the name exists is
// not known, and the network may come up later.
type unresolvable struct{}

func (unresolvable) Name() string { return directiveUnresolvable }

func (unresolvable) ServeDNS(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) {
	return dns.RcodeServerFailure, nil // CoreDNS writes the answer
}

// ask sends one query to a server of this node and fails unless it answers with an address.
func ask(ctx context.Context, name string, server netip.AddrPort) error {
	client := &dns.Client{Timeout: time.Second}
	var last error
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		m := new(dns.Msg)
		m.SetQuestion(dns.Fqdn(name), qtype)
		reply, _, err := client.ExchangeContext(ctx, m, server.String())
		switch {
		case err != nil:
			return fmt.Errorf("ask %s for %s: %w", server, name, err)
		case reply.Rcode != dns.RcodeSuccess:
			last = fmt.Errorf("%s answers %s for %s", server, dns.RcodeToString[reply.Rcode], name)
		case len(reply.Answer) == 0:
			last = fmt.Errorf("%s knows no address of %s", server, name)
		default:
			return nil
		}
	}
	return last
}
