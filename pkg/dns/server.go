package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/edgebox/edgebox/pkg/component"
)

// Port is where DNS is served.
const Port = 53

// settle is how long the host's DNS configuration must be left alone before it is read again.
const settle = 500 * time.Millisecond

// ServerConfig is what a node's DNS server needs.
type ServerConfig struct {
	// API gives access as the node; asked at each start.
	API func() (*rest.Config, error)
	// Addresses waits for the addresses to listen on. The channel is closed when others take their place.
	Addresses func(ctx context.Context) ([]netip.Addr, <-chan struct{}, error)
	Domain    string       // of the cluster
	ClusterIP []netip.Addr // of the kube-dns Service; not used as upstream
}

// Server is CoreDNS on this node as a component.
type Server struct {
	cfg         ServerConfig
	port        int
	resolvConfs []string

	mu        sync.Mutex
	addresses []netip.Addr // in use
}

// NewServer returns the component.
func NewServer(cfg ServerConfig) *Server {
	return &Server{cfg: cfg, port: Port, resolvConfs: resolvConfs}
}

// Name implements component.Component.
func (s *Server) Name() string { return "dns" }

// Run serves until ctx ends or the addresses change. It is ready when it has answered a query for the API's name.
// A change of the host's DNS servers is taken over while it runs.
func (s *Server) Run(ctx context.Context, ready func()) error {
	err := s.run(ctx, ready)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Server) run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	component.Note(ctx, "the addresses of this node's pod network")
	addresses, changed, err := s.cfg.Addresses(ctx)
	if err != nil {
		return fmt.Errorf("addresses to listen on: %w", err)
	}
	api, err := s.apiConfig()
	if err != nil {
		return err
	}
	if err := waitPermission(ctx, api); err != nil {
		return err
	}

	// Watch before reading, so that no change falls between the two.
	resolvChanged, err := watchFiles(ctx, s.resolvConfs)
	if err != nil {
		slog.Warn("changes of the host's DNS servers are not noticed", "err", err)
	}
	exclude := slices.Concat(addresses, s.cfg.ClusterIP)
	conf := corefile{port: s.port, addresses: addresses, domain: s.cfg.Domain, upstreams: upstreams(s.resolvConfs, exclude)}
	server, err := startCoreDNS(ctx, conf, api)
	if err != nil {
		return err
	}
	defer func() { server.stop() }()

	s.mu.Lock()
	s.addresses = addresses
	s.mu.Unlock()
	if err := component.Poll(ctx, "an answer", 20*time.Millisecond, s.Check); err != nil {
		return err
	}
	slog.Info("cluster DNS ready", "addresses", addresses, "upstreams", conf.upstreams)
	ready()

	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			return errors.New("the addresses of this node's pod network changed")
		case <-server.ended:
			return errors.New("CoreDNS ended")
		case <-resolvChanged:
			settled = time.After(settle)
		case <-settled:
			settled = nil
			now := upstreams(s.resolvConfs, exclude)
			if slices.Equal(now, conf.upstreams) {
				continue
			}
			conf.upstreams = now
			if err := server.reconfigure(ctx, conf, api); err != nil {
				return err
			}
			slog.Info("upstream DNS servers changed", "upstreams", now)
		}
	}
}

// Check implements component.Checker: every address answers for the name of the API's Service.
func (s *Server) Check(ctx context.Context) error {
	s.mu.Lock()
	addresses := s.addresses
	s.mu.Unlock()
	for _, a := range addresses {
		if err := ask(ctx, "kubernetes.default.svc."+s.cfg.Domain, netip.AddrPortFrom(a, uint16(s.port))); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) apiConfig() (*rest.Config, error) {
	api, err := s.cfg.API()
	if err != nil {
		return nil, fmt.Errorf("access to the API: %w", err)
	}
	api = rest.CopyConfig(api)
	api.UserAgent = "edgebox-dns"
	api.ContentType = "application/vnd.kubernetes.protobuf"
	api.AcceptContentTypes = api.ContentType + ",application/json"
	return api, nil
}

// waitPermission waits until what CoreDNS follows may be listed. Its informers would back off for up to half a minute;
// at boot the permission can be new.
func waitPermission(ctx context.Context, api *rest.Config) error {
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		return fmt.Errorf("access to the API: %w", err)
	}
	one := metav1.ListOptions{Limit: 1, ResourceVersion: "0"}
	return component.Poll(ctx, "permission to list services", 200*time.Millisecond, func(ctx context.Context) error {
		if _, err := client.CoreV1().Services("").List(ctx, one); err != nil {
			return err
		}
		if _, err := client.CoreV1().Namespaces().List(ctx, one); err != nil {
			return err
		}
		_, err := client.DiscoveryV1().EndpointSlices("").List(ctx, one)
		return err
	})
}
