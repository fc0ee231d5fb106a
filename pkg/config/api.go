package config

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
)

// apiPort is the default of https-listen-port.
const apiPort = "6443"

// LocalAPI is host:port of the API for components on the same machine. On a server that is its own API server: on the
// loopback address, unless the API listens on one address only. On an agent it is the balancer.
func (c Config) LocalAPI() string {
	host, port := "127.0.0.1", c.HTTPSListenPort
	if c.Role == Agent {
		port = c.BalancerPort
	} else if a := c.BindAddress; a.IsValid() && !a.IsUnspecified() {
		host = a.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// ServerAddress is host:port of the server to join. The configuration must be valid.
func (c Config) ServerAddress() string {
	address, _ := serverAddress(c.Server)
	return address
}

// serverAddress reads the URL of a server.
func serverAddress(text string) (hostPort string, err error) {
	const example = "https://192.168.1.10:6443"
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return "", errors.New("is not a URL such as " + example)
	}
	port := u.Port()
	if port == "" {
		port = apiPort
	}
	n, err := strconv.ParseUint(port, 10, 16)
	switch {
	case u.Scheme != "https":
		return "", errors.New("must begin with https://")
	case err != nil || n == 0:
		return "", errors.New("has a port out of range (1-65535)")
	case u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("must be no more than https://HOST:PORT")
	}
	if _, err := netip.ParseAddr(u.Hostname()); err != nil && dnsName(u.Hostname()) != nil {
		return "", errors.New("has neither a host name nor an IP address, such as " + example)
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}
