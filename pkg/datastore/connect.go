package datastore

import (
	"crypto/tls"
	"fmt"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Connect returns a client of the store that holds every resource, which the caller closes. It connects when it is used.
func Connect(s Store) (*clientv3.Client, error) {
	var conf *tls.Config
	if ca, cert, key := s.TLSFiles(); ca != "" || cert != "" {
		var err error
		if conf, err = (transport.TLSInfo{TrustedCAFile: ca, CertFile: cert, KeyFile: key}).ClientConfig(); err != nil {
			return nil, fmt.Errorf("connect to the datastore: %w", err)
		}
	}
	return clientv3.New(clientv3.Config{
		Endpoints: strings.Split(s.Endpoint(), ","), TLS: conf, DialKeepAliveTime: deadAfter, Logger: zap.NewNop()})
}
