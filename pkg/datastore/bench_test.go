package datastore

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/edgebox/edgebox/tests/e2e/datastore/databases"
)

const (
	benchClients = 16
	benchKeys    = 2000
)

// stores are what there is to choose from. Each database server runs beside the benchmark.
var stores = []struct {
	name  string
	start func(b *testing.B) Store
}{
	{"sqlite", func(b *testing.B) Store { d, _ := start(b, newPaths(b)); return d }},
	{"etcd", func(b *testing.B) Store {
		a := newCluster(b).member("a")
		launch(b, a).ready()
		return a
	}},
	{"etcd of three", func(b *testing.B) Store {
		c := newCluster(b)
		a := c.member("a")
		launch(b, a).ready()
		launch(b, c.member("b", a)).ready()
		launch(b, c.member("c", a)).ready()
		return a
	}},
	{"postgres", func(b *testing.B) Store {
		d, _ := startRemote(b, databases.PostgresDSN(databases.Postgres(b, databases.Options{}).Address(), ""))
		return d
	}},
	{"mariadb", func(b *testing.B) Store {
		d, _ := startRemote(b, databases.MariaDBDSN(databases.MariaDB(b, databases.Options{}).Address()))
		return d
	}},
	{"nats", func(b *testing.B) Store {
		d, _ := startRemote(b, databases.NATSDSN(databases.NATS(b, databases.Options{}).Address()))
		return d
	}},
}

// bench does the same to all stores.
func bench(b *testing.B, do func(c *clientv3.Client, key string, rev *atomic.Int64) error) {
	for _, s := range stores {
		b.Run(s.name, func(b *testing.B) { benchStore(b, s.start(b), do) })
	}
}

// benchStore has benchKeys objects in a store, and calls do from benchClients goroutines with the client that the API
// server has. It reports the 99th percentile beside the mean of all clients together.
func benchStore(b *testing.B, s Store, do func(c *clientv3.Client, key string, rev *atomic.Int64) error) {
	c := s.Client(s.Endpoint())
	defer c.Close()
	revs := make([]atomic.Int64, benchKeys)
	key := func(i int) string { return fmt.Sprintf("/registry/configmaps/bench/object-%d", i) }
	var fill sync.WaitGroup
	for n := range benchClients {
		fill.Go(func() {
			for i := n; i < benchKeys; i += benchClients {
				revs[i].Store(create(b, c, key(i), object()))
			}
		})
	}
	fill.Wait()

	var mu sync.Mutex
	var all []time.Duration
	b.SetParallelism(max(1, benchClients/runtime.GOMAXPROCS(0)))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		var took []time.Duration
		for pb.Next() {
			i := rand.IntN(benchKeys)
			begin := time.Now()
			if err := do(c, key(i), &revs[i]); err != nil {
				b.Error(err)
				return
			}
			took = append(took, time.Since(begin))
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, took...)
	})
	slices.Sort(all)
	if len(all) > 0 {
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
	}
	b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "op/s")
}

func object() string { return strings.Repeat("x", 300) + fmt.Sprint(rand.Int()) }

func BenchmarkCreate(b *testing.B) {
	var n atomic.Int64
	bench(b, func(c *clientv3.Client, key string, _ *atomic.Int64) error {
		key = fmt.Sprintf("%s-%d", key, n.Add(1))
		res, err := c.Txn(b.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, object())).Commit()
		if err == nil && !res.Succeeded {
			err = fmt.Errorf("%s was there", key)
		}
		return err
	})
}

func BenchmarkGet(b *testing.B) {
	bench(b, func(c *clientv3.Client, key string, _ *atomic.Int64) error {
		res, err := c.Get(b.Context(), key)
		if err == nil && len(res.Kvs) != 1 {
			err = fmt.Errorf("%s is not there", key)
		}
		return err
	})
}

// BenchmarkUpdate has conflicts as an API server has them, and tries again with what the answer says.
func BenchmarkUpdate(b *testing.B) {
	bench(b, func(c *clientv3.Client, key string, rev *atomic.Int64) error {
		for {
			res, err := c.Txn(b.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", rev.Load())).
				Then(clientv3.OpPut(key, object())).Else(clientv3.OpGet(key)).Commit()
			if err != nil {
				return err
			}
			if res.Succeeded {
				rev.Store(res.Header.Revision)
				return nil
			}
			rev.Store(res.Responses[0].GetResponseRange().Kvs[0].ModRevision)
		}
	})
}
