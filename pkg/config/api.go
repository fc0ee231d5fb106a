package config

import (
	"net"
	"strconv"
)

// LocalAPI is host:port of the API server for components on the same machine: loopback, unless the API listens on one
// address only.
func (c Config) LocalAPI() string {
	host := "127.0.0.1"
	if a := c.BindAddress; a.IsValid() && !a.IsUnspecified() {
		host = a.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(c.HTTPSListenPort))
}
