package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/edgebox/edgebox/tests/framework"
)

const (
	apiClients  = 16
	apiDuration = 10 * time.Second
)

const configMaps = "/api/v1/namespaces/" + namespace + "/configmaps"

// apiClient has a connection and objects of its own.
type apiClient struct {
	*framework.API
	id   int
	made int
}

func (c *apiClient) configMap(i int) object {
	return object{"metadata": object{"name": c.name(i)}, "data": object{"key": strings.Repeat("x", 100), "n": fmt.Sprint(rand.Int())}}
}

func (c *apiClient) name(i int) string { return fmt.Sprintf("c%d-%d", c.id, i) }

func (c *apiClient) create(ctx context.Context) error {
	c.made++
	return c.Do(ctx, http.MethodPost, configMaps, c.configMap(c.made-1), nil)
}

func (c *apiClient) get(ctx context.Context) error {
	return c.Do(ctx, http.MethodGet, configMaps+"/"+c.name(rand.IntN(c.made)), nil, nil)
}

func (c *apiClient) update(ctx context.Context) error {
	i := rand.IntN(c.made)
	return c.Do(ctx, http.MethodPut, configMaps+"/"+c.name(i), c.configMap(i), nil)
}

// api measures what the API server does for several clients that ask without pause.
func (b *bench) api(ctx context.Context, s *server) error {
	clients := make([]*apiClient, apiClients)
	for i := range clients {
		a, err := s.host.API()
		if err != nil {
			return err
		}
		defer a.Close()
		clients[i] = &apiClient{API: a, id: i}
		if err := a.Do(ctx, http.MethodGet, "/readyz", nil, nil); err != nil { // connects
			return err
		}
	}
	for _, op := range []struct {
		name string
		do   func(*apiClient, context.Context) error
	}{
		{"create", (*apiClient).create}, {"get", (*apiClient).get}, {"update", (*apiClient).update},
	} {
		start := time.Now()
		end := start.Add(apiDuration)
		latencies := make([][]time.Duration, apiClients)
		var g errgroup.Group
		for i, c := range clients {
			g.Go(func() error {
				for begin := time.Now(); begin.Before(end); {
					if err := op.do(c, ctx); err != nil {
						return err
					}
					now := time.Now()
					latencies[i] = append(latencies[i], now.Sub(begin))
					begin = now
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return fmt.Errorf("%s: %w", op.name, err)
		}
		took := time.Since(start)
		all := slices.Concat(latencies...)
		if len(all) == 0 {
			return errors.New(op.name + ": nothing was done in time")
		}
		rate := float64(len(all)) / took.Seconds()
		say("%s: %.0f/s, p50 %v, p99 %v", op.name, rate, percentile(all, 50).Round(time.Millisecond), percentile(all, 99).Round(time.Millisecond))
		b.report.set("api."+op.name+".rate", rate)
		b.report.set("api."+op.name+".p50", ms(percentile(all, 50)))
		b.report.set("api."+op.name+".p99", ms(percentile(all, 99)))
	}
	return nil
}
