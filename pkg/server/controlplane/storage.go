package controlplane

import (
	"fmt"
	"reflect"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/utils/clock"
)

// localStorage keeps objects by clients that call the datastore in this process. Upstream connects once for each
// resource: 70 gRPC connections with their buffers, goroutines and pings, and sockets between an object and its row.
// See docs/adr/0009-api-server-calls-the-datastore.md.
type localStorage struct {
	client func(endpoint string) *clientv3.Client // nil for endpoints elsewhere, which upstream connects to

	mu         sync.Mutex
	compactors map[string]compactor // by endpoint
}

type compactor interface {
	etcd3.Compactor
	Stop()
}

// install makes the three servers of the chain use l.
func (l *localStorage) install(c *app.Config) {
	for _, getter := range []*generic.RESTOptionsGetter{
		&c.KubeAPIs.ControlPlane.Generic.RESTOptionsGetter,
		&c.ApiExtensions.GenericConfig.RESTOptionsGetter,
		&c.ApiExtensions.ExtraConfig.CRDRESTOptionsGetter,
		&c.Aggregator.GenericConfig.RESTOptionsGetter,
	} {
		*getter = localOptions{*getter, l}
	}
}

// close ends the compaction.
func (l *localStorage) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.compactors {
		c.Stop()
	}
	l.compactors = nil
}

// localOptions decorates the storage of resources with l.
type localOptions struct {
	generic.RESTOptionsGetter
	storage *localStorage
}

func (o localOptions) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	opts, err := o.RESTOptionsGetter.GetRESTOptions(resource, example)
	if err != nil {
		return opts, err
	}
	// Upstream's choice for resources without a watch cache.
	uncached := reflect.ValueOf(opts.Decorator).Pointer() == reflect.ValueOf(generic.UndecoratedStorage).Pointer()
	elsewhere := opts.Decorator
	opts.Decorator = func(conf *storagebackend.ConfigForResource, prefix string, keyFunc func(runtime.Object) (string, error),
		newFunc, newListFunc func() runtime.Object, attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers,
	) (storage.Interface, factory.DestroyFunc, error) {
		client := o.storage.clientOf(conf.Transport)
		if client == nil {
			return elsewhere(conf, prefix, keyFunc, newFunc, newListFunc, attrs, triggers, indexers)
		}
		raw, destroy, err := o.storage.open(client, conf, newFunc, newListFunc, prefix)
		if err != nil {
			return nil, nil, err
		}
		if uncached {
			return raw, destroy, nil
		}
		c, err := cacher.NewCacherFromConfig(cacher.Config{
			Storage: raw, Versioner: storage.APIObjectVersioner{}, Codec: conf.Codec,
			GroupResource: conf.GroupResource, EventsHistoryWindow: conf.EventsHistoryWindow, ResourcePrefix: prefix,
			KeyFunc: keyFunc, NewFunc: newFunc, NewListFunc: newListFunc, GetAttrsFunc: attrs, IndexerFuncs: triggers, Indexers: indexers,
		})
		if err != nil {
			destroy()
			return nil, nil, err
		}
		cached := cacher.NewCacheDelegator(c, raw)
		return cached, sync.OnceFunc(func() {
			cached.Stop()
			c.Stop()
			destroy()
		}), nil
	}
	return opts, nil
}

// clientOf returns a new client; nil when the datastore is elsewhere.
func (l *localStorage) clientOf(t storagebackend.TransportConfig) *clientv3.Client {
	if len(t.ServerList) != 1 {
		return nil
	}
	return l.client(t.ServerList[0])
}

// open returns the storage of one resource, and what closes it, client included. It is wired as upstream wires its own.
func (l *localStorage) open(client *clientv3.Client, conf *storagebackend.ConfigForResource, newFunc, newListFunc func() runtime.Object, prefix string) (storage.Interface, factory.DestroyFunc, error) {
	endpoint := conf.Transport.ServerList[0]
	client.KV = etcd3.NewETCDLatencyTracker(client.KV)
	feature.DefaultFeatureSupportChecker.CheckClient(client.Ctx(), namedClient{client, endpoint}, storage.RequestWatchProgress)
	etcd := &kubernetes.Client{Client: client}
	etcd.Kubernetes = etcd
	transformer := conf.Transformer
	if transformer == nil {
		transformer = identity.NewEncryptCheckTransformer()
	}
	versioner := storage.APIObjectVersioner{}
	decoder := etcd3.NewDefaultDecoder(conf.Codec, versioner)
	tolerant := utilfeature.DefaultFeatureGate.Enabled(features.AllowUnsafeMalformedObjectDeletion)
	if tolerant {
		transformer = etcd3.WithCorruptObjErrorHandlingTransformer(transformer)
		decoder = etcd3.WithCorruptObjErrorHandlingDecoder(decoder)
	}
	store, err := etcd3.New(etcd, l.compactor(endpoint, conf.CompactionInterval), conf.Codec, newFunc, newListFunc, conf.Prefix, prefix,
		conf.GroupResource, transformer, conf.LeaseManagerConfig, decoder, versioner)
	if err != nil {
		return nil, nil, fmt.Errorf("storage of %s: %w", conf.GroupResource, err)
	}
	destroy := sync.OnceFunc(func() { // subresources share it
		store.Close()
		_ = client.Close() // reports that it was canceled
	})
	if tolerant {
		return etcd3.NewStoreWithUnsafeCorruptObjectDeletion(store, conf.GroupResource), destroy, nil
	}
	return store, destroy, nil
}

// compactor returns the one of an endpoint, which tells caches what they may forget; nil without an interval.
func (l *localStorage) compactor(endpoint string, interval time.Duration) etcd3.Compactor {
	if interval == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := l.compactors[endpoint]; ok {
		return c
	}
	client := l.client(endpoint)
	c := etcd3.NewCompactor(client, interval, clock.RealClock{}, func() { _ = client.Close() })
	if l.compactors == nil {
		l.compactors = map[string]compactor{}
	}
	l.compactors[endpoint] = c
	return c
}

// namedClient tells upstream which endpoint a client belongs to that has no connection, to ask for its version.
type namedClient struct {
	*clientv3.Client
	endpoint string
}

func (c namedClient) Endpoints() []string { return []string{c.endpoint} }
