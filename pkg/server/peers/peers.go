// Package peers is what servers of one cluster have to do with each other: they share the keys of the CAs, encrypted
// under the server token, and know how many they are, because only several servers have a leader to elect.
//
// Both are in the datastore, beside the objects of the API server, which would have to run before it could be asked. It
// owns the keys below /edgebox/servers there.
package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/pki"
)

const (
	secretsKey = "/edgebox/servers-secrets"
	prefix     = "/edgebox/servers/" // and the name of each
)

// Secrets are what all servers of a cluster have in common.
type Secrets struct {
	Files    map[string][]byte `json:"files"`    // pki.SharedFiles, by name
	Settings map[string]string `json:"settings"` // config.Config.ClusterSettings
	Etcd     bool              `json:"etcd"`     // the datastore is etcd on the servers themselves
}

// Config is what the component depends on.
type Config struct {
	Name    string                           // of this server
	Connect func() (*clientv3.Client, error) // to the datastore
	Token   func() (pki.ServerToken, error)  // asked for once the certificates are there
	Secrets func() (Secrets, error)          // of this server
}

// Peers is the component. It is for servers whose datastore others may share.
type Peers struct {
	cfg     Config
	several atomic.Bool
}

// New returns the component.
func New(cfg Config) *Peers { return &Peers{cfg: cfg} }

// Name implements component.Component.
func (p *Peers) Name() string { return "peers" }

// Several reports whether the cluster has more servers than this one. It is known once the component is ready.
func (p *Peers) Several() bool { return p.several.Load() }

// Path is where Peers, as a handler, gives the encrypted secrets to machines that become servers.
const Path = "/edgebox/servers-secrets"

// ServeHTTP answers with the secrets as they are in the datastore. Whoever gets there must be authorized already.
func (p *Peers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, err := p.cfg.Connect()
	if err == nil {
		defer c.Close()
		var sealed []byte
		if sealed, err = Sealed(r.Context(), c); err == nil && sealed != nil {
			w.Header().Set("Content-Type", "application/octet-stream")
			_, _ = w.Write(sealed)
			return
		}
	}
	if err == nil {
		err = errors.New("there are no secrets yet")
	}
	http.Error(w, err.Error(), http.StatusServiceUnavailable)
}

// Run publishes the secrets or makes sure that they are this server's, enters this server among the others, and is ready.
// When a second server appears, it ends, so that edgebox starts anew and takes part in elections.
func (p *Peers) Run(ctx context.Context, ready func()) error {
	c, err := p.cfg.Connect()
	if err != nil {
		return err
	}
	defer c.Close()
	var wrong error
	if err := component.Poll(ctx, "the secrets of the servers", time.Second, func(ctx context.Context) error {
		wrong = nil
		err := p.share(ctx, c)
		if errors.Is(err, errOtherCluster) {
			wrong = err
			return nil
		}
		return err
	}); err != nil {
		return err
	}
	if wrong != nil {
		return wrong
	}
	var rev int64
	if err := component.Poll(ctx, "the list of servers", time.Second, func(ctx context.Context) (err error) {
		rev, err = p.enter(ctx, c)
		return err
	}); err != nil {
		return err
	}
	ready()
	if p.Several() {
		<-ctx.Done()
		return nil
	}
	return p.await(ctx, c, rev)
}

var errOtherCluster = errors.New("the datastore belongs to another cluster")

// share writes the secrets if there are none, and compares them otherwise.
func (p *Peers) share(ctx context.Context, c *clientv3.Client) error {
	token, err := p.cfg.Token()
	if err != nil {
		return err
	}
	own, err := p.cfg.Secrets()
	if err != nil {
		return err
	}
	theirs, err := Fetch(ctx, c, token)
	if err != nil {
		return err
	}
	if theirs == nil {
		plain, err := json.Marshal(own)
		if err != nil {
			return err
		}
		sealed, err := token.Seal(plain)
		if err != nil {
			return err
		}
		if created, err := create(ctx, c, secretsKey, sealed); err != nil || created {
			return err
		}
		if theirs, err = Fetch(ctx, c, token); err != nil { // another server was faster
			return err
		}
		if theirs == nil {
			return errors.New("the secrets have vanished")
		}
	}
	for name, content := range own.Files {
		if strings.HasSuffix(name, ".crt") { // is prolonged when its time comes, by each server
			continue
		}
		if !bytes.Equal(content, theirs.Files[name]) {
			return fmt.Errorf("%w: its %s is not the one in this server's data dir; give the datastore of this server's cluster, or start with an empty data dir and --token of the other cluster", errOtherCluster, name)
		}
	}
	return nil
}

// Fetch returns the secrets from the datastore, nil if there are none. A token that they are not sealed with is an error.
func Fetch(ctx context.Context, c *clientv3.Client, token pki.ServerToken) (*Secrets, error) {
	sealed, err := Sealed(ctx, c)
	if err != nil || sealed == nil {
		return nil, err
	}
	s, err := Open(sealed, token)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errOtherCluster, err)
	}
	return &s, nil
}

// Sealed returns the secrets as they are in the datastore, nil if there are none.
func Sealed(ctx context.Context, c *clientv3.Client) ([]byte, error) {
	got, err := c.Get(ctx, secretsKey)
	if err != nil {
		return nil, fmt.Errorf("read the secrets of the servers: %w", err)
	}
	if len(got.Kvs) == 0 {
		return nil, nil
	}
	return got.Kvs[0].Value, nil
}

// Open decrypts what Sealed returned.
func Open(sealed []byte, token pki.ServerToken) (Secrets, error) {
	plain, err := token.Open(sealed)
	if err != nil {
		return Secrets{}, err
	}
	var s Secrets
	if err := json.Unmarshal(plain, &s); err != nil {
		return Secrets{}, fmt.Errorf("read the secrets of the servers: %w", err)
	}
	return s, nil
}

// create writes a value where there is none. It is one of the few transactions that kine takes.
func create(ctx context.Context, c *clientv3.Client, key string, value []byte) (created bool, err error) {
	res, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, string(value))).Commit()
	if err != nil {
		return false, fmt.Errorf("write %s: %w", key, err)
	}
	return res.Succeeded, nil
}

// enter puts this server on the list and looks who else is there, as of the revision.
func (p *Peers) enter(ctx context.Context, c *clientv3.Client) (revision int64, err error) {
	if _, err := create(ctx, c, prefix+p.cfg.Name, []byte("{}")); err != nil {
		return 0, err
	}
	list, err := c.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return 0, fmt.Errorf("list servers: %w", err)
	}
	var others []string
	for _, kv := range list.Kvs {
		if name := strings.TrimPrefix(string(kv.Key), prefix); name != p.cfg.Name {
			others = append(others, name)
		}
	}
	p.several.Store(len(others) > 0)
	if len(others) > 0 {
		slog.Info("this server shares the cluster", "with", others)
	}
	return list.Header.Revision, nil
}

// await ends when another server has entered.
func (p *Peers) await(ctx context.Context, c *clientv3.Client, revision int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		for res := range c.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(revision+1)) {
			for _, e := range res.Events {
				if name := strings.TrimPrefix(string(e.Kv.Key), prefix); e.Type == clientv3.EventTypePut && name != p.cfg.Name {
					return fmt.Errorf("%s has become a server, too, and one of them must be elected: %w", name, component.ErrRestart)
				}
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		// The watch was cut, or what it began with was compacted.
		err := component.Poll(ctx, "the list of servers", time.Second, func(ctx context.Context) (err error) {
			revision, err = p.enter(ctx, c)
			return err
		})
		if err != nil {
			return nil
		}
		if p.Several() {
			return fmt.Errorf("another server has joined, and one of them must be elected: %w", component.ErrRestart)
		}
	}
}
