package datastore

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	etcderrors "go.etcd.io/etcd/server/v3/etcdserver/errors"
	"go.uber.org/zap"
)

// timeouts are how etcd says that no majority has answered.
var timeouts = []error{
	etcderrors.ErrTimeout, etcderrors.ErrTimeoutDueToLeaderFail, etcderrors.ErrTimeoutDueToConnectionLost,
	etcderrors.ErrTimeoutLeaderTransfer, etcderrors.ErrTimeoutWaitAppliedIndex, etcderrors.ErrNoLeader, etcderrors.ErrCanceled,
	rpctypes.ErrTimeout, rpctypes.ErrTimeoutDueToLeaderFail, rpctypes.ErrTimeoutDueToConnectionLost, rpctypes.ErrNoLeader,
}

// addMember tells a cluster, whose members have these client URLs, of a new member without a vote, and returns what that
// must know of all when it starts. A member of the same name that is not alive has lost its data, and is removed.
func addMember(ctx context.Context, endpoints []string, conf *tls.Config, name, peerURL string) (initialCluster string, err error) {
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: conf, Logger: zap.NewNop()})
	if err != nil {
		return "", err
	}
	defer c.Close()
	attempt, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	list, err := c.MemberList(attempt)
	if err != nil {
		return "", explain(ctx, endpoints, conf, err)
	}
	known := false
	for _, m := range list.Members {
		switch {
		case m.Name == "" && m.IsLearner && slices.Equal(m.PeerURLs, []string{peerURL}):
			known = true // was added before, and has not started since
		case m.Name == name || slices.Contains(m.PeerURLs, peerURL):
			if isAlive(ctx, c, m) {
				return "", fmt.Errorf("the etcd cluster has a member %s that is alive, at %s: choose another --node-name", m.Name, strings.Join(m.PeerURLs, ", "))
			}
			if _, err := c.MemberRemove(attempt, m.ID); err != nil {
				return "", fmt.Errorf("remove the former member %s: %w", m.Name, explain(ctx, endpoints, conf, err))
			}
		}
	}
	if !known {
		if _, err := c.MemberAddAsLearner(attempt, []string{peerURL}); err != nil {
			return "", explain(ctx, endpoints, conf, err)
		}
	}
	if list, err = c.MemberList(attempt); err != nil {
		return "", explain(ctx, endpoints, conf, err)
	}
	var cluster []string
	for _, m := range list.Members {
		label := m.Name
		switch {
		case slices.Equal(m.PeerURLs, []string{peerURL}):
			label = name
		case label == "": // another one that joins at the same time
			label = fmt.Sprintf("%x", m.ID)
		}
		for _, u := range m.PeerURLs {
			cluster = append(cluster, label+"="+u)
		}
	}
	return strings.Join(cluster, ","), nil
}

// isAlive reports whether the member itself answers.
func isAlive(ctx context.Context, c *clientv3.Client, m *etcdserverpb.Member) bool {
	for _, u := range m.ClientURLs {
		attempt, cancel := context.WithTimeout(ctx, reachTimeout)
		status, err := c.Status(attempt, u)
		cancel()
		if err == nil && status.Header.MemberId == m.ID {
			return true
		}
	}
	return false
}

// EtcdURL is where the member on a server's host listens to clients.
func EtcdURL(host string) string {
	return "https://" + net.JoinHostPort(host, strconv.Itoa(etcdClientPort))
}
