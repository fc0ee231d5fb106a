package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/edgebox/edgebox/pkg/admin"
	"github.com/edgebox/edgebox/pkg/admin/adminserver"
	"github.com/edgebox/edgebox/pkg/agent/join"
	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/datastore"
	"github.com/edgebox/edgebox/pkg/durable"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/pkg/server/peers"
)

// AddJoining puts the components of a server into the graph. One that joins others first gets what they share.
func AddJoining(g *component.Graph, cfg config.Config, status func(context.Context) admin.Status) {
	adm := adminserver.New(cfg.Paths().AdminSocket(), status)
	g.Add(adm)
	if cfg.Server == "" && cfg.DatastoreEndpoint == "" {
		Add(g, cfg, adm)
		return
	}
	g.Add(component.Expand("join", func(ctx context.Context) (func(*component.Graph), error) {
		joined, err := joinServers(ctx, cfg)
		if err != nil {
			return nil, err
		}
		return func(g *component.Graph) { Add(g, joined, adm) }, nil
	}))
}

// joinServers makes this machine's data dir that of a server of the cluster, unless it is already, and returns the
// configuration with the cluster's settings.
func joinServers(ctx context.Context, cfg config.Config) (config.Config, error) {
	paths := cfg.Paths()
	certs := pki.New(paths.PKI())
	if _, err := os.Stat(certs.KeyFile(pki.ServerCA)); err == nil {
		settings, err := recallSettings(paths.ServerSettings())
		if err != nil {
			return cfg, err
		}
		return adopt(cfg, settings)
	}
	secrets, err := fetch(ctx, cfg)
	if err != nil || secrets == nil { // the first server on a database
		return cfg, err
	}
	adopted, err := adopt(cfg, secrets.Settings)
	if err != nil {
		return cfg, err
	}
	return adopted, become(cfg, secrets)
}

// become puts into place what the servers share. The CA's key comes last: with it, this is a server of the cluster.
func become(cfg config.Config, secrets *peers.Secrets) error {
	paths := cfg.Paths()
	last := pki.ServerCA + ".key"
	names := append(slices.DeleteFunc(slices.Sorted(maps.Keys(secrets.Files)), func(n string) bool { return n == last }), last)
	for _, name := range names {
		if !slices.Contains(pki.SharedFiles(), name) {
			return fmt.Errorf("the servers share a file %s, which this version does not know: use the version that they run", name)
		}
	}
	if err := writeSettings(paths.ServerSettings(), secrets.Settings); err != nil {
		return err
	}
	if err := durable.WriteFile(paths.ServerToken(), []byte(cfg.Token+"\n"), 0o600); err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(paths.PKI(), filepath.FromSlash(name))
		if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := durable.WriteFile(path, secrets.Files[name], 0o600); err != nil {
			return err
		}
	}
	return nil
}

// fetch gets the secrets from a server, or from the database; nil when that has none.
func fetch(ctx context.Context, cfg config.Config) (*peers.Secrets, error) {
	if cfg.Server == "" {
		return fetchFromDatabase(ctx, cfg)
	}
	if cfg.Token == "" {
		return nil, errors.New("a server that joins others needs their token: give with --token or --token-file what `edgebox token server` prints on one of them")
	}
	token, err := pki.ParseServerToken(cfg.Token)
	if err != nil {
		return nil, fmt.Errorf("--token: %w", err)
	}
	node := join.New(join.Config{Server: cfg.ServerAddress(), NodeName: cfg.NodeName, Now: time.Now})
	sealed, err := node.Fetch(ctx, token.Token, peers.Path)
	if err != nil {
		return nil, err
	}
	secrets, err := peers.Open(sealed, token)
	if err != nil {
		return nil, err
	}
	if !secrets.Etcd {
		return nil, fmt.Errorf("the server %s keeps the cluster's objects in a database: give this one the same --datastore-endpoint instead of --server", cfg.Server)
	}
	return &secrets, nil
}

// fetchFromDatabase starts the datastore for a moment: what other servers have left there decides what this one is.
func fetchFromDatabase(ctx context.Context, cfg config.Config) (secrets *peers.Secrets, err error) {
	var token pki.ServerToken
	if pki.IsServerToken(cfg.Token) {
		if token, err = pki.ParseServerToken(cfg.Token); err != nil {
			return nil, fmt.Errorf("--token: %w", err)
		}
	}
	store := datastore.New(cfg)
	var g component.Graph
	g.Add(store)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-ended)
	}()
	select {
	case <-g.Ready():
	case err := <-ended:
		ended <- nil
		return nil, err
	}
	c, err := datastore.Connect(store)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	sealed, err := peers.Sealed(ctx, c)
	switch {
	case err != nil:
		return nil, err
	case sealed == nil && pki.IsServerToken(cfg.Token):
		return nil, errors.New("--token is that of the servers of a cluster, and there is none in the database of --datastore-endpoint")
	case sealed == nil:
		return nil, nil
	case !pki.IsServerToken(cfg.Token):
		return nil, errors.New("there is a cluster in the database of --datastore-endpoint: to become one of its servers, give with --token or --token-file what `edgebox token server` prints on one of them")
	}
	s, err := peers.Open(sealed, token)
	return &s, err
}

// adopt returns cfg with the settings of the cluster. What the user says differently is an error, since it would count
// for nobody.
func adopt(cfg config.Config, settings map[string]string) (config.Config, error) {
	defaults, err := config.Defaults().Complete(config.Host{Name: cfg.NodeName})
	_ = err // of addresses that the defaults do not have; cluster-dns follows from service-cidr alone
	own, standard := cfg.ClusterSettings(), defaults.ClusterSettings()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if value, known := own[name]; known && value != settings[name] && value != standard[name] {
			errs = append(errs, fmt.Errorf("%s: is %q here and %q in the cluster: remove it here", name, value, settings[name]))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return cfg, err
	}
	return cfg.WithClusterSettings(settings)
}

func recallSettings(file string) (map[string]string, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) { // the first server
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var settings map[string]string
	if err := json.Unmarshal(text, &settings); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return settings, nil
}

func writeSettings(file string, settings map[string]string) error {
	text, err := json.MarshalIndent(settings, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(file, append(text, '\n'), 0o600)
}
