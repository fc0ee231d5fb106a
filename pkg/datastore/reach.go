package datastore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// reachTimeout is how long it may take to connect.
const reachTimeout = 2 * time.Second

// refusalWait is how long a server may take to refuse a certificate, which with TLS 1.3 it does after the handshake.
const refusalWait = 300 * time.Millisecond

// explain says why etcd at these URLs could not be asked. Its client says no more than that it took too long.
func explain(ctx context.Context, urls []string, conf *tls.Config, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	each := make([]string, len(urls))
	var wg sync.WaitGroup
	for i, u := range urls {
		wg.Go(func() {
			if err := reach(context.WithoutCancel(ctx), u, conf); err != nil {
				each[i] = fmt.Sprintf("%s: %v", u, err)
			}
		})
	}
	wg.Wait()
	reasons := slices.DeleteFunc(each, func(s string) bool { return s == "" })
	switch len(reasons) {
	case 0:
		return errors.New("etcd has no leader, as when most of its members are away")
	case len(urls):
		return errors.New(strings.Join(reasons, "; "))
	}
	return fmt.Errorf("etcd has no leader, as when most of its members are away; %s", strings.Join(reasons, "; "))
}

// reach connects as a client of etcd does, and returns what keeps it from talking.
func reach(ctx context.Context, endpoint string, conf *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	if u.Scheme != "https" {
		return nil
	}
	if conf == nil {
		conf = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	conf = conf.Clone()
	conf.ServerName = u.Hostname()
	client := tls.Client(conn, conf)
	if err := client.HandshakeContext(ctx); err != nil {
		return err
	}
	if err := client.SetReadDeadline(time.Now().Add(refusalWait)); err != nil {
		return err
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		return err // nil too: it talks
	}
	return nil
}
