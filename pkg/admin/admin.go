// Package admin has the types of the HTTP API by which the commands of edgebox speak to the process that runs on this
// machine. It is apart from the server, so that the front stays light.
package admin

import (
	"time"

	"github.com/edgebox/edgebox/pkg/component"
)

// Status is the answer to GET /v1/status.
type Status struct {
	Version    string             `json:"version"`
	Kubernetes string             `json:"kubernetes"`
	Node       string             `json:"node"`
	Role       string             `json:"role"` // server or agent
	PID        int                `json:"pid"`
	Since      time.Time          `json:"since"`
	Ready      bool               `json:"ready"` // every component is
	Components []component.Status `json:"components"`
	Servers    []APIServer        `json:"servers,omitempty"` // that an agent knows, the one in use first
}

// APIServer is a server of the cluster, as an agent sees it.
type APIServer struct {
	Address     string `json:"address"` // host:port
	InUse       bool   `json:"inUse"`
	Connections int    `json:"connections"`
	Tunnel      bool   `json:"tunnel"`          // is open: the server reaches this node through it
	Error       string `json:"error,omitempty"` // of the last attempt to reach it; empty if that went well
}
